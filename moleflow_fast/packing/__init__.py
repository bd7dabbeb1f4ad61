"""From a task's modules to the tensors that the engine reads, and the runner of models that does so."""
