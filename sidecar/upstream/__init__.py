"""Rank 1, the service side: endpoints and their standing, connections to them, and the service that ends a pipeline."""
