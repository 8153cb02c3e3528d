"""Rank 3, the downstream side: listeners, requests and responses, the admin listener, and the life of the process."""
