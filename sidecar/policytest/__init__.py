"""Policy tests: `sidecar test policies/` runs the examples of `*.test.yaml` files through the real sidecar, in no time.

Nothing is imitated but the network and the clock: a test's requests arrive as bytes at a listener's connection, go
through the router and the compiled pipeline, and leave as bytes through the upstream's client; its answers come back
the same way.  Connections are joined in memory, and where everyone waits the clock jumps to the next timer: a test of a
breaker that stays open for a minute takes a millisecond.

    spec                      what a test file may say
    virtual, network          the clock, and connections in memory
    service, client           the scripted upstreams, and who asks
    world                     policies compiled and served within these
    run                       files, tests and steps
    compare                   what differs from what was expected, and where that is written

What is left out: TLS (connections are made as though it had been agreed on), health checks, name look-ups (a discovered
upstream has one endpoint) and Redis.
"""
