"""Files of the published implementation's checkpoints."""

STATE_FILE = "nf_model.pth"  # in task_<t>/
