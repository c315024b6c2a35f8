"""Models, adapters and tokenizers: loaded, and identified by their content."""
