"""What a run will take, measured by a probe."""
