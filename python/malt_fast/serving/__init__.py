"""Requests of OpenAI's clients, answered by the chain of a finished run."""
