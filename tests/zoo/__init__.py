"""A zoo of tiny random checkpoints: families of models x kinds of tokenizers x kinds of templates.

entries.py lists it, build.py makes a checkpoint in a fraction of a second, checks.py says what must
hold for each, and table.py writes the outcome to docs/zoo.md.
"""
