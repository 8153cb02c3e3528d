"""Policy tests: `sidecar test policies/` runs the tests in `*.test.yaml` files through the real sidecar.

Only the network and the clock are simulated (`sidecar.simulation`).  A request arrives as bytes on a connection of a
listener, passes the router and the compiled pipeline, and leaves as bytes through the client of the upstream.  The
response returns the same way.  Virtual time passes at once, so a breaker that stays open for a minute is tested without
waiting.

Start reading at `run`:

- `spec`: format of test files.
- `run`: finds, reads and runs test files, step by step.
- `world`: policies of a test, in force on a virtual loop.
- `callers`: credentials of callers, made by the test.
- `client`, `script`: connection of the client, and scripted upstreams.
- `streams`: both of them over HTTP/2, for calls of gRPC and upstreams with `protocol: http2`.
- `messages`: messages of gRPC, from JSON and as JSON.
- `compare`: differences from the expectations, each with the line of the expectation.

Not tested: TLS, client certificates, external authentication, health checks, Redis and name look-ups (a discovered
upstream has one endpoint).
"""
