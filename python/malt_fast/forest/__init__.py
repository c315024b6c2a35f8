"""Trees and what follows from them: credit, examples, pairs, training data."""
