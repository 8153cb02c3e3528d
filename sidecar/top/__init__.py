"""`sidecar top`: the live page in a terminal.  Reads the same stream from an admin listener, near or far."""
