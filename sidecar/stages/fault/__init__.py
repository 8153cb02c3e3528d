"""fault."""
