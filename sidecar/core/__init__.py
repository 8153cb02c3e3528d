"""Vocabulary: what every other package speaks.  Imports no other package of the sidecar, and does no I/O.

A request and what becomes of it; start reading with these:

- `exchange`: one request on its way through the stages, its attempts and its forks.
- `outcome`: a response or a failure, as a value.
- `stage`: the one shape of a policy at run time, and its laws.
- `promise`: runs a request's coroutine without a task.
- `env`: clock, timers, randomness and instruments, handed in; what a stage is built with.

Messages:

- `message`: header fields as lines and as pairs, look-ups in them, and the values that several packages read.
- `body`: a body on its way from one connection to another.
- `http1`: the grammar of HTTP/1.1 (RFC 9112).
- `uri`: targets, paths and how servers read them.

Policy files:

- `spec`, `units`: base classes of what a file may say, and the types of its values.
- `conditions`, `template`, `pattern`: lists of conditions, texts with names in braces, patterns that take linear time.

Telemetry and counting: `metrics`, `events` (their names in one place), and `window` (counts of the recent past).
"""
