"""Leases: parts of a limit that several processes share, without I/O and without a clock.

    rate            leases of a rate: who hands them out (`RateLessor`) and who uses them (`RateLessee`)
    quota           leases of units of a quota, which is spent in a window of time
    permits         leases of permits, which are held and given back: limits on concurrency and retry budgets
    store_clock     a clock that never steps, made of the clocks of a store and of the processes that ask it

The user of a lease takes tokens or permits for requests without asking anybody.  The lender is where all processes can
reach it: in the supervisor of workers, or as a script in Redis with the same arithmetic.  Messages of a rate may be
lost, but not be delivered twice; those of permits need a channel that keeps them in order.

Not here: what carries the messages, and what a process does while it has no answer.
"""
