"""Parts that rate limits and quotas share.

    spec            types of keys and costs in policy files
    keys            readers of the key and the cost of a request
    answers         costs by the size of the answer
    fields          the fields `RateLimit` and `RateLimit-Policy` of responses
    gcra            counts of a rate in this process: the generic cell rate algorithm

Not here: counts that several processes share (`sidecar.leases`).
"""
