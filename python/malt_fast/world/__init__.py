"""The bundled demonstration world: a tiny base model that knows its trade and has bad habits."""
