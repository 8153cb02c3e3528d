"""Rank 0, the vocabulary: what every other package speaks.  Imports nothing of ours and does no I/O."""
