"""Simulation: a virtual clock and a network in memory, shared by policy tests, `chaos simulate` and unit tests.

Start reading at `loop`:

- `loop`: event loop whose clock jumps to the next timer without waiting.
- `network`: listeners, names and listening sockets of that loop.
- `transport`: the two ends of one connection, with the order, flow control, ends and resets of TCP.
- `no_telemetry`: stand-ins for telemetry, which a simulated sidecar does not have.

Rules:

1. The result of a run depends only on its inputs and its seed, never on real time, sockets or name look-ups.
2. Code under test runs unchanged, on the asyncio interfaces that it uses in production.

Not here: TLS, Unix listeners, scripted upstreams (`policytest`), services and faults (`chaos`).
Make an `Env` with `Env.on(loop, wall=loop.wall, ...)`.
"""
