"""A resilience sidecar: a proxy beside a service that applies policies from files to the traffic of each route.

    core                                         vocabulary: exchange, outcome, stage, environment; no I/O
    engine                                       what takes a request through the stages; readers of heads in C
    http2                                        HTTP/2 and HPACK without I/O
    cache  expression  transform                 HTTP caching, conditions (`when:`), rewriting of messages
    simulation                                   virtual clock and network of tests and of `chaos simulate`
    identity                                     who can vouch for a caller: tokens, keys, certificates
    upstream  downstream                         the service side and the client side of the proxy
    stages                                       one directory for each policy, and their order
    routing  config  control                     which route takes a request; files to specs; specs to pipelines, reload
    telemetry                                    metrics, logs, traces and their export
    inspect  admin                               `sidecar explain` and `routes`; the admin listener with its page
    process  app                                 lifecycle of the process; the composition root
    cli  commands  command_line                  the command line, and the voice of its problems and help
    policytest  top  demo                        the commands that are programs of their own

A module imports only from packages further up (`tests/test_architecture.py`).  Start with `core/stage.py` for the idea,
with `downstream/__init__.py` for a request's way, with `control/reload.py` for a policy file's.
"""

__version__ = "0.1.0"
