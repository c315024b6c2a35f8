"""Tasks: questions with gold answers, prompts, and the choice of a grader."""
