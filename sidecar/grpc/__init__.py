"""gRPC over HTTP/2 as values: statuses, timeouts, messages.  Does no I/O and knows no policy.

- `status`: status codes in header fields, their HTTP statuses, content types and method paths.
- `timeout`: the field `grpc-timeout`.
- `framing`: length-prefixed messages.
- `web`: the two forms of gRPC-Web.

Elsewhere: `core/outcome` has the names of the codes and the verdict on an answer.  `upstream` and `downstream` apply
them.
"""
