"""The client side: listeners, connections of clients, requests as `Exchange`s, and answers as bytes.

One request's way in: `listener` accepts (`tls_acceptor` where TLS is spoken), `connection` takes the bytes and finds
the end of the head, `request_head` makes the `Exchange`, `request_body` takes a body that is still arriving, and
`connection` calls the route that `listener.match` returns.  The answer's way out: `connection` again, `response_head`
for its head, `response_body` for a body that is still arriving.

    connection      one client's connection, and the table of its phases: start reading here
    http2           one client's HTTP/2 connection, each stream an exchange (protocol: `http2`)
    request_head    a head as an `Exchange`; what is rejected, what is believed        (mirrors upstream/request_head)
    forwarded       what trusted proxies say of the client
    request_body    the body of a request while it arrives                             (mirrors upstream/request_body)
    response_head   the head of an answer; problem documents                           (mirrors upstream/response_head)
    response_body   the body of an answer while it arrives
    slow_clients    what a slow client may cost: its allowance, and the account of all
    backlog         what one client has been sent and has not taken
    closing         lingering close and reset
    tunnel          the connection after 101, joined with the upstream's
    websocket       frames in a tunnel: where each ends
    listener        one address: acceptors, connections, limits
    tls_acceptor    accepts TLS connections, counted before their handshake
    sockets         listening sockets, shared between a listener and its successor
    server          all listeners: reload, drain, the sweep of deadlines
    descriptors     the reserve of file descriptors

Not here: the grammar of HTTP/1.1 (`core/http1`), routing (`routing/router`), the connections to services (`upstream`),
the admin listener (`admin`), what is recorded of an exchange (`telemetry/recorder`).
"""
