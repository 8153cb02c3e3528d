"""Discovery: sources that change the endpoints of an upstream while the policies stay.

Start with `discovery.py`, which takes what a source finds and keeps it while the source is away.

    discovery   Discovery: runs a source, changes the endpoint set, tells log and metrics
    names       source: A and AAAA records, SRV records
    file        source: a file that lists endpoints
    kubernetes  source: EndpointSlices of a service, listed and watched
    slices      endpoints of a service from its EndpointSlices, without I/O
    api         requests to the API server of Kubernetes, with the pod's service account
    spec        settings of all sources

They use the `EndpointSet` of `upstream.endpoint`, which has the state, and the resolver of `upstream.resolver`.
"""
