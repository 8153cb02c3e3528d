"""The virtual world: one clock and one network in memory, shared by policy tests, `chaos simulate` and unit tests.

Start reading at `loop`:

- `loop`: event loop whose clock jumps to the next timer instead of waiting.
- `network`: listeners, names and listening sockets of that loop.
- `transport`: the two ends of one connection, with TCP's order, flow control, ends and resets.
- `silence`: telemetry of a simulated sidecar, which has none.

Rules:

1. No real time, socket or name look-up decides anything: a run is a function of its inputs and its seed.
2. Code under test is not changed: it meets the asyncio interfaces that it uses in production.

Not here: TLS, Unix listeners, scripted upstreams (`policytest`), services and faults (`chaos`).
An `Env` on this world is `Env.on(loop, wall=loop.wall, ...)`.
"""
