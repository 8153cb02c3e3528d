"""Stores: what several processes share, declared in the `stores` section of a policy file.

    spec            the `stores` section, and the Redis that caches and stores name
    redis           connections to a Redis, and scripts that run in it: the adapter to redis-py
    script          the script in Redis that grants leases, with the arithmetic of `sidecar.leases.rate`
    exchanges       exchanges with a store: batches, its breaker, and what waits for an answer
    in_process      the same in this process, for policy tests
    supervisor      the same in the supervisor of several workers
    shared_limits   the rate limits of one store, and what holds without it
    shared_quotas   the quotas of one store, and what is admitted without it
    quota_script    the script in Redis that counts quotas
    quota_file      quotas in a file: a database of SQLite

Not here: the tier of a cache in Redis (`sidecar.cache.redis_tier`), and the stages that use limits.
"""
