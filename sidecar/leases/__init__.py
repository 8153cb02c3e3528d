"""Leases: parts of a limit that several processes share, without I/O and without a clock.

    rate            leases of a rate: who hands them out (`RateLessor`) and who uses them (`RateLessee`)
    quota           leases of units of a quota, which is spent in a window of time
    permits         leases of permits, which are held and given back: limits on concurrency and retry budgets
    store_clock     a clock that never steps, made of the clocks of a store and of the processes that ask it

A lessee is in each process; it takes tokens or permits for requests without asking anybody.  A lessor is where all
processes can reach it: in the supervisor of workers, or as a script in Redis with the same arithmetic.  The owner of a
lessee collects its asks at times, carries them to the lessor, and hands the answers back.  Both sides allow a message
to be lost, and none to be delivered twice.

Not here: what carries the messages, and what a process does while it has no answer.
"""
