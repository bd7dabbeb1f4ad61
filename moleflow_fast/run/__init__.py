"""A continual run: its parts, its directory, its tasks, and what may be changed when it is finished."""
