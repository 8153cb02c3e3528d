"""Circuit breaker: stop asking an upstream that fails, and find out when it is back.

- `spec.py`: what a policy file may say.
- `stage.py`: the circuit as one route meets it.  Start reading here.
- `breaker.py`: the circuit, which all routes of an upstream may share; its transitions and what is told of them.
- `states.py`: who is admitted in each state, and what a result means there.
- `trial.py`: probes and ramp of the half-open state, without clock and randomness.
- `evidence.py`: which results are failures, how many there lately were, and whether that is too many.
- `machine.py`: the adapter of pybreaker, and the only file that imports it.

Windows of recent calls stand in `sidecar.core.window`.  Why each corner case is decided as it is, and how Resilience4j
and Polly decide it, stands in `docs/design/circuit-breaker.md`.
"""
