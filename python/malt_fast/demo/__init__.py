"""The bundled demonstration: a tiny base model, and the program that makes it."""
