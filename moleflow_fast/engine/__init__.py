"""The compiled flow of a task: packed tensors forward and backward, training steps, CUDA graphs; never modules."""
