"""Rollout: a share of a route's requests goes to a candidate, another upstream or another policy.

    spec        what a policy file says of shares, ramps, stickiness and the return
    sequential  test of whether the candidate is worse, valid at every instant
    evidence    outcomes of both arms, in pairs, and the verdict on them
    arms        shares now, the arm of each request, and the return
    stage       reports the outcome of each request of an arm

Start with `arms.py`.  The arms of a route are routes of their own, which the compiler builds (`control.compiler`); so
breakers, budgets, caches, metrics and log lines of the arms are apart.
"""
