"""HTTP/2 to upstreams: connections that carry many exchanges at a time, each on a stream.

    pool            StreamPool: streams to one endpoint, on as few connections as carry them
    opening         Opening: a new connection until its version is known
    connection      MultiplexedConnection: the transport of one session, its streams, and its silence
    stream          UpstreamStream: one exchange on its stream
    websocket       WebSocketStream: a WebSocket on its stream, by the extended CONNECT (RFC 8441)
    probe           health probe of endpoints that may speak HTTP/2
    request         head and body of a request, in the form that the session takes

The protocol itself is `sidecar.http2`.  A pool of this package is chosen when the pools of an upstream are made, by its
`protocol`; HTTP/1.1 pays nothing for it.
"""
