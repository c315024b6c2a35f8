"""What every room may use: errors, files, signals, processes. Imports nothing of the package."""
