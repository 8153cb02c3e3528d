"""HTTP/2 (RFC 9113) and HPACK (RFC 7541) without I/O; start reading with `session`.

- `session`: one connection in either role: streams, flow control, settings, the two steps of going away.
- `stream`: one stream and the table of its states.
- `heads`: requests, responses and trailers from header blocks, as strict as the grammar of HTTP/1.1.
- `fields`: one field, checked and as an HTTP/1.1 line.
- `hpack`, `huffman`: header blocks to fields and back.
- `frames`: the bounded reader of frames, and what writes them.
- `limits`: what a peer may cost, as rates.
- `errors`: error codes, and the error that ends a connection.

Elsewhere: sockets, timers, routes and pools.  The owner of the transport owns the `Session`.
"""
