"""Service side of the proxy: endpoints, the connections to them, and the terminal of every pipeline.

Start with `client.py`: one attempt, from the choice of an endpoint to the last byte of its response.

    client          Upstream: makes an attempt (endpoint, connection, exchange, record)
    balancing/      choice of an endpoint: load balancing, ejection, health checks
    discovery/      sources of endpoints that change: DNS, a file, Kubernetes
    grpc/           status of gRPC answers; the gRPC health check
    endpoint        Endpoint, its address and state; EndpointSet, shared by all of these
    pools, pool     connections of an upstream, and of one endpoint: reuse, limits, queue
    slow_places     places for requests that are forwarded before their body is complete
    connection      UpstreamConnection: one exchange at a time, and its phases
    request_head, request_body, response_head
                    messages on that connection; `connection` itself reads response bodies
    http2/          many exchanges at a time on one connection: pool of streams, its connections, their exchanges
    deadlines       sweep that expires late exchanges and waiting requests
    response_times    usual response time of an endpoint, to judge attempts with a short deadline
    errors          descriptions of socket and TLS errors
    resolver        host names: look-ups, their cache, and Happy Eyeballs
    tls, certificates
                    TLS contexts from files, and their rotation; listeners use them too
    spec, budget    settings of an upstream; its retry budget

Elsewhere: the grammar of HTTP/1.1 and bodies (`core.http1`, `core.body`), retries, breakers and all other policies
(`stages`), the client side (`downstream`).
"""
