"""Control plane: compiles policies into running pipelines, and replaces them at a reload.

    reload      start here: reads, loads, compiles, binds, commits and swaps, in this order
    compiler    builds an immutable snapshot of pipelines from specs
    passthrough routes for captured requests without a route, to their original destination
    route       one route of a snapshot, ready to serve requests
    state       objects that survive a reload, such as breakers and pools, by their keys
    watch       fingerprint of the policy files, to detect changes

A request uses only the snapshot.
"""
