"""Routing: which route a request takes.

    match_spec    `match` of a route as policy files write it
    rule          one match, compiled: what it asks of a request, and how specific it is
    router        start here: all rules of a listener, and the choice among them

What a route does with a request is no part of it: a rule leads to any target.
"""
