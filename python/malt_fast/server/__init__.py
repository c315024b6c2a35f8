"""What `python -m malt_fast.serve` is made of.

thread.py     the thread that owns the engine, and jobs handed to it
api.py        what OpenAI's interface asks and answers, as plain values
endpoint.py   HTTP: routes, tokens, streams, errors
"""
