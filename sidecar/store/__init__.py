"""Stores: what several processes share, declared in the `stores` section of a policy file.

    spec            the `stores` section, and the Redis that caches and stores name
    redis           connections to a Redis, and scripts that run in it: the adapter to redis-py
    script          the script in Redis that grants leases, with the arithmetic of `sidecar.leases.rate`
    in_process      the same in this process, for policy tests
    supervisor      the same in the supervisor of several workers
    shared_limits   the rate limits of one store: exchanges with it, its breaker, and what holds without it

Not here: the tier of a cache in Redis (`sidecar.cache.redis_tier`), and the stages that use limits.
"""
