"""A finished run opened: the report's page, its trees, and what an export holds."""
