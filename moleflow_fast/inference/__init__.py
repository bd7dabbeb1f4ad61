"""A flow with its extractor, positions and router, and what they say of images."""
