"""Published experiments as data."""
