"""timeout."""
