"""Readers of ordinary heads beside the grammar."""
