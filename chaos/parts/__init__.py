"""Parts of a scenario: services, the load, and the links and stores between them.

Every part is plain asyncio and gets its clock from outside.  So the same code runs in a process of its own on real
sockets, and on one virtual loop with all other parts in `chaos simulate`.  Start reading at `part`.

- `part`: interface of a part, and what it is handed; `kinds`: parts by the name of their kind.
- `load`: users; `service`: a service of finite capacity; `link`: a relay with faults on the wire; `store`: as much of
  Redis as a cache needs.
- `issuer`: bearer tokens of the load, and the keys that verify them.
- `kubernetes`: API server of Kubernetes, for discovery.
- `pooled_client`: client of load and services; `port`: a listening port that can refuse or hang.
- `http`: HTTP/1.1 messages, read and written without the sidecar's grammar.
- `plain`: plain TCP of services and clients.
- `http2`: HTTP/2 and gRPC of services and clients, on the sidecar's engine.

Raw ends of connections, for tests and the benchmark:

- `client`: sends what no library would; `servers`: misbehave on command; `websocket`: frames and an echo.
- `floods`: floods of HTTP/2.
"""
