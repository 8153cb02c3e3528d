"""A resilience sidecar: a proxy beside a service that applies policies from files to the traffic of each route.

    core                                         vocabulary: exchange, outcome, stage, environment; no I/O
    engine                                       runs requests through the stages of a route; parsers of heads in C
    http2                                        HTTP/2 and HPACK without I/O
    grpc                                         gRPC's statuses, timeouts and messages as values
    cache  expression  transform                 HTTP caching, conditions (`when:`), rewriting of messages
    file_watch  certificate_dates                when a changed file is whole, and when a certificate expires
    leases                                       parts of a limit that several processes share, without I/O
    store                                        what several processes share: Redis, and limits leased from it
    simulation                                   virtual clock and network of tests and of `chaos simulate`
    identity                                     who can vouch for a caller: tokens, keys, certificates
    rollout                                      shares of a route's requests for a candidate, taken back on evidence
    upstream  downstream                         the service side and the client side of the proxy
    stages                                       one directory for each policy, and their order
    routing  config  control                     route of a request; files to specs; specs to pipelines, and reload
    telemetry                                    metrics, logs, traces and their export
    lint                                         what the numbers of policies mean together
    inspect  admin                               `sidecar explain` and `routes`; the admin listener with its page
    process  app                                 lifecycle of the process; the composition root
    cli  commands  command_line                  command line: entry point, commands, form of errors and help
    policytest  replay  top  demo  proto  manifests  starter  the commands that are programs of their own

A module imports only from packages further up (`tests/test_architecture.py`).  Start with `core/stage.py` for the
abstraction, `downstream/__init__.py` for the path of a request, `control/reload.py` for that of a policy file.
"""

__version__ = "0.1.0"
