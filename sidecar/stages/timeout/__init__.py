"""Timeout: deadlines of the whole request, of one attempt, and of the next piece of a body.

- `spec.py`: the block in a policy file.
- `stage.py`: the gate, which sets the deadlines on the exchange.

Nothing here waits or sets a timer.  Connections carry their deadlines and are swept (`sidecar.upstream.deadlines`).
"""
