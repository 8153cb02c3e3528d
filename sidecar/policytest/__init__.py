"""Policy tests: `sidecar test policies/` runs the examples of `*.test.yaml` files through the real sidecar.

Only the network and the clock are imitated (`sidecar.simulation`).  A test's request arrives as bytes on a listener's
connection, passes the router and the compiled pipeline, and leaves as bytes through the upstream's client; the answer
comes back the same way.  A breaker that stays open for a minute is tested in a millisecond.

Start reading at `run`:

- `spec`: what a test file may say.
- `run`: finds, reads and runs test files, step by step.
- `world`: the policies of a test in force on a virtual loop.
- `client`, `script`: the connection of the client, and the scripted upstreams.
- `compare`: what differs from the expectations, with the line on which each is written.

Left out of the policies under test: TLS, health checks, Redis and name look-ups (a discovered upstream has one
endpoint).
"""
