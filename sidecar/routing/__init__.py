"""Routing: selects the route of a request.

    match_spec    spec of a route's `match`
    rule          one compiled `match`: its conditions, and its rank among other rules
    arms          router of a listener whose routes have candidates
    preflight     router of a listener whose routes answer CORS preflights
    router        start here: all rules of a listener, and the selection among them

The target of a rule may be any object: the package does not depend on what a route does.
"""
