"""Timeout: when the whole request, one attempt, and the next piece of a body are due.

- `spec.py`: what a policy file may say.
- `stage.py`: the gate, which stamps these on the exchange.

Nothing here waits or sets a timer.  Connections carry their deadlines and are swept (`sidecar.upstream.deadlines`).
"""
