"""Tools that several tests share.

- `clock`: `FakeEnv` on a clock that a test moves; `loop`: the same on a loop of virtual time.
- `service`: a scripted innermost service, exchanges, build contexts.
- `transports`: connections in memory, on `sidecar.simulation`; `proxy`: a whole proxy on them, with policies;
  `streams`: the same with a client and a service of HTTP/2.
- `process`: a real `sidecar run`; `files`: what it watches; `authority`: certificates for it.
- `redis`: a Redis server; `scenarios`: those of `chaos/`, loaded once.
- `otlp`, `rotel`: collectors; `malformed`: answers that are not valid HTTP; `work`: calls of a function, counted;
  `steps`: steps of a regular expression; `cases`: one test for a table of cases.

Not here: clients and servers that misbehave on command, which the benchmark uses too (`chaos.parts`).
"""
