"""Rules of `sidecar lint`, by subject; `table` has all of them but `chains`.

times     limits of time: those without effect, and routes without any
retries   retries, hedges, their budgets, and calls for one request
breakers  breakers and throttles that cannot open, open on noise, or probe at the wrong time
capacity  limits of concurrency and rate, queues, ejections and health checks
answers   caches, fallbacks, injected faults, mirrors and rollouts
chains    what is wrong along a chain of services
"""
