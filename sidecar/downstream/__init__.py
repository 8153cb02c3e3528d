"""Client side of the proxy: listeners, client connections, request parsing and response writing.

Path of a request: `listener` accepts the connection (for TLS, `tls_acceptor`).  `connection` receives the bytes.
`request_head` parses the head into an `Exchange`, and `request_body` reads a body that is still arriving.  Then
`connection` calls the route that `listener.match` returns.  Path of the response: `connection` writes it, with
`response_head` for the head and `response_body` for a streamed body.

    connection      one client connection, and the table of its phases: start reading here
    http2           HTTP/2 from clients: a package of its own (protocol: `sidecar.http2`)
    capture/        connections that the kernel has redirected to a listener
    grpc/           answers to gRPC calls; gRPC-Web
    request_head    parses a head into an `Exchange`; validation and trust             (mirrors upstream/request_head)
    forwarded       parses what trusted proxies state about the client
    request_body    reads a request body while it arrives                              (mirrors upstream/request_body)
    response_head   writes the head of a response; problem documents                   (mirrors upstream/response_head)
    response_body   writes a response body
    slow_clients    time and memory that slow clients may take
    backlog         bytes written to one client that it has not read
    closing         lingering close and reset
    tunnel          joins a client and an upstream connection after a 101
    websocket       finds the ends of frames in a tunnel
    listener        one address: acceptors, connections, limits
    tls_acceptor    accepts TLS connections and counts them before their handshake
    sockets         listening sockets, shared between a listener and its successor
    server          all listeners: reload, drain, sweep of deadlines
    descriptors     reserve of file descriptors

Elsewhere: the grammar of HTTP/1.1 (`core/http1`), routing (`routing/router`), connections to services (`upstream`), the
admin listener (`admin`), recording of exchanges (`telemetry/recorder`).
"""
