"""Training of one role on packed trees."""
