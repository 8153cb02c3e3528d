"""Control plane: from policy files to running pipelines, and from one set of policies to the next.

    reload      start here: reads, loads, compiles, binds, commits and swaps, in this order
    compiler    specs as pipelines: an immutable snapshot
    route       one route of a snapshot
    state       what survives a reload, each object under its identity
    watch       what files look like from outside, to see that they have changed

Requests see none of it but the snapshot.
"""
