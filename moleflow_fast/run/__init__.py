"""A continual run: its pieces, its directory, its tasks, and what may be changed when it is finished."""
