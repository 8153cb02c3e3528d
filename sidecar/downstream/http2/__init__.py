"""HTTP/2 from clients; start reading with `connection`.

- `connection`: one client connection: transport, deadlines, drain; owner of a `sidecar.http2` session.
- `exchange`: one stream as an exchange: its request, its response, and their two bodies.
"""
