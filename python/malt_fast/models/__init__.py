"""Models, adapters and tokenizers: loading them, and identifying them by content."""
