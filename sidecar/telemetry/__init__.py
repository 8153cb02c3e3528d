"""Rank 1, what the sidecar tells about itself: metrics, the log, trace context."""
