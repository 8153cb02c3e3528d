"""The service side of the proxy: endpoints, the connections to them, and the service that ends every pipeline.

Start with `client.py`: one attempt, from the choice of an endpoint to the last byte of its response.

    client          Upstream: chooses an endpoint, takes a connection, exchanges, records
    balancing/      which endpoint: load balancing, ejection, health checks, discovery
    endpoint        Endpoint, its address and standing; EndpointSet, shared by all of these
    pools, pool     connections of an upstream, and of one endpoint: reuse, limits, the queue for them
    slow_places     places for requests that are sent on before their body is here
    connection      UpstreamConnection: one exchange at a time, and its phases
    request_head, request_body, response_head
                    the messages on that connection; its response bodies are read in `connection`
    deadlines       the sweep that expires whatever is late
    answer_times    how long an endpoint usually takes, and whether an attempt gave it that long
    errors          errors of sockets and TLS in plain words
    resolver        names: look-ups, their cache, and connecting to whichever address answers first
    tls, certificates
                    TLS contexts from files, and their rotation; listeners use them too
    spec, budget    the settings of an upstream; its retry budget

Elsewhere: the HTTP/1.1 grammar and bodies (`core.http1`, `core.body`), retries, breakers and all other policies
(`stages`), the client's side (`downstream`).
"""
