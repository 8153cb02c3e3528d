"""Several worker processes under one supervisor (`process: {workers: N}`).

    supervisor     start here: starts and restarts workers, reload, admin commands
    worker         process that serves requests
    link           the worker's side of all that workers share
    channel        messages between a worker and the supervisor
    inbox           sockets that are sent to a worker
    board          shared memory with the connections of each worker
    leases         permits and tokens that the supervisor lends to workers
    topics         values that workers tell each other
    summary        metrics and state of all workers together

A sidecar of one process imports none of these modules.
"""
