"""Stand-in that hides uvloop, so that a sidecar with this directory first in PYTHONPATH runs on asyncio's own loop."""

raise ImportError("hidden")
