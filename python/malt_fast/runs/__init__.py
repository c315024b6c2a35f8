"""The run directory, its lock, terminal, live view and loggers."""
