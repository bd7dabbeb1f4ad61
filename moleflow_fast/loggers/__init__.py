"""A run's curves for programs that show them; each is an optional dependency."""
