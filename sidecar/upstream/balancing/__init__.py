"""Which endpoint an attempt goes to, and who finds and judges the endpoints.

Start with `balancer.py`, which runs for every attempt; the other modules only change what it sees.

    balancer    picks an endpoint: strategies, panic, last resort
    ejection    takes an endpoint out after failed requests (passive)
    health      takes an endpoint out after failed probes (active)
    discovery   finds the endpoints of a DNS name

All four work on the `EndpointSet` of `upstream.endpoint`, which holds the verdicts.
"""
