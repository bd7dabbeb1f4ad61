"""Files, processes, signals, memory and time of the machine that the package runs on."""
