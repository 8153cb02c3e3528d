"""Circuit breaker: refuses requests to an upstream that fails, and probes it until it has recovered.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage of one route.  Start reading here.
- `breaker.py`: the circuit, which all routes of an upstream may share; its transitions and their reports.
- `states.py`: admission and the meaning of results in each state.
- `trial.py`: probes and ramp of the half-open state, without clock and randomness.
- `evidence.py`: classification of results, counts of recent ones, and thresholds.
- `machine.py`: the adapter of pybreaker, and the only file that imports it.

Windows of recent calls are in `sidecar.core.window`.  `docs/design/circuit-breaker.md` has the reason for each corner
case, and the choices of Resilience4j and Polly.
"""
