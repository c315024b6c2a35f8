"""From settings to a graded forest: set-up, engine, tree expansion, grading."""
