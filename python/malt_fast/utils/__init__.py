"""What every folder may use: errors, files, signals, processes. Imports nothing of the package."""
