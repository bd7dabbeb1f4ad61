"""Adding products to a finished run, and taking products out."""
