"""gRPC over HTTP/2 as values: statuses, timeouts, messages and their JSON.  Does no I/O and knows no policy.

- `status`: status codes in header fields, their HTTP statuses, content types and method paths.
- `timeout`: the field `grpc-timeout`.
- `framing`: length-prefixed messages.
- `descriptors`: descriptor sets as tables of messages, enums, services and their HTTP rules.
- `wire`: the wire format of Protocol Buffers: varints, and the reader of fields.
- `to_json`, `from_json`: the JSON mapping of proto3, one module for each direction.
- `templates`, `bindings`: path templates of `google.api.http`, and REST requests as messages by such rules.
- `wellknown`: the texts of timestamps, durations and field masks.
- `web`: the two forms of gRPC-Web.

Elsewhere: `core/outcome` has the names of the codes and the verdict on an answer.  `upstream` and `downstream` apply
them.
"""
