"""Types that all other packages share.  Imports no other package of the sidecar and does no I/O.

Requests and their outcomes; start here:

- `exchange`: one request on its way through the stages, with its attempts and forks.
- `outcome`: a response or a failure, as a value.
- `stage`: the interface of a policy at run time, and its laws.
- `promise`: drives a request's coroutine without a task.
- `env`: injected clock, timers, randomness and instruments, and the context in which a stage is built.

Messages:

- `message`: header fields as lines and as pairs, look-ups in them, and parsers of common values.
- `body`: a message body that streams from one connection to another.
- `http1`: the grammar of HTTP/1.1 (RFC 9112).
- `uri`: paths, the ways in which servers interpret them, and query strings.

Policy files:

- `spec`, `units`: base classes of specs, and the types of their values.
- `conditions`: lists of conditions on an outcome.
- `template`: texts with names in braces.
- `pattern`: regular expressions that match in linear time.

Telemetry: `metrics` and `events` define the names of all metrics and events; `window` counts recent calls.
"""
