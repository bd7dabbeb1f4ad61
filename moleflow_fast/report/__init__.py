"""The analysis of a set of runs, as Markdown and as one HTML file."""
