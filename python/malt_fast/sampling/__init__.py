"""From settings to a graded forest."""
