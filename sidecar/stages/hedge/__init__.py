"""hedge."""
