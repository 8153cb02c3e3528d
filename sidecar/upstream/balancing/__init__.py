"""Load balancing: choice of an endpoint for each attempt, and health of the endpoints.

Start with `balancer.py`, which runs for every attempt; the other modules only change the state of endpoints.

    balancer    picks an endpoint: panic, last resort
    strategies  choose one of several endpoints
    weights     choose among endpoints with weights and zones
    subset      part of many endpoints that this sidecar uses
    pressure    responses that ask for less load
    ejection    excludes an endpoint after failed requests (passive)
    health      excludes an endpoint after failed probes (active)

They use the `EndpointSet` of `upstream.endpoint`, which has the state.
"""
