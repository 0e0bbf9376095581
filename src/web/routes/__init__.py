"""The calls of the API, by noun. A handler reads, asks, shows; it decides nothing else."""
