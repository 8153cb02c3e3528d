"""Several worker processes under one supervisor (`process: {workers: N}`).

The supervisor, from its start to its exit:

    supervisor      start here: signals, readiness, drain, hand-over
    children        worker processes: start, restart, death
    listening       listening sockets, of which workers get copies
    reloading       policies of all workers or of none
    sharing         limits, values and probes that workers share
    commands        admin commands for all workers
    summary         metrics and state of all workers together

A worker:

    worker          process that serves requests
    link            link to the supervisor and to the other workers
    shared          the worker's side of limits, values and probes that workers share
    borrowed        permits and tokens that a worker holds

Between them:

    channel         messages between a worker and the supervisor
    inbox           sockets that are sent to a worker
    board           shared memory with the connections of each worker
    topics          values that workers tell each other

The arithmetic of leases is in `sidecar.leases`.  A sidecar of one process imports none of these modules.
"""
