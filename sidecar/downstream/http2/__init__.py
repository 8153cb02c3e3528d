"""HTTP/2 from clients; start reading with `connection`.

- `connection`: one client connection: transport, deadlines, drain; owner of a `sidecar.http2` session.
- `exchange`: one stream as an exchange: its request, its response, and their two bodies.
- `slow_streams`: time and memory that a slow client may take on a stream.
- `stream_transport`: a stream as the transport of a WebSocket tunnel.
"""
