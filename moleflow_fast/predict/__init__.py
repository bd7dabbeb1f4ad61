"""Scores, labels and pictures of image files, from the command line."""
