"""Requests of OpenAI's clients, answered by the chain."""
