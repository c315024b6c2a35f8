"""Settings: their schema, the command line and YAML files that set them, and help."""
