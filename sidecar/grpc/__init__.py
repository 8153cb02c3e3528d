"""gRPC on messages and text, without I/O.

- `descriptors`: descriptor sets as tables of messages, enums, services and their HTTP rules.
- `wire`: the wire format of Protocol Buffers: varints, and the reader of fields.
- `to_json`, `from_json`: the JSON mapping of proto3, one module for each direction.
- `wellknown`: the texts of timestamps, durations and field masks.

Elsewhere: HTTP/2 (`sidecar.http2`), and the policies that use all this (`sidecar.stages`).
"""
