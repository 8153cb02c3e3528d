"""Checks of policies beyond the shape of single values: what cannot work (errors), or has no effect (warnings).

    layers         one layer of policies where it stands: known keys, each block well-formed as far as it goes
    references     names that routes use: each is declared, and what is declared is used
    listeners      two listeners at one address; an admin listener that is open to others
    upstreams      an ejection that can never happen; an endpoint that is a listener of this sidecar
    times          timeouts, attempts, hedges and queues that get in each other's way
    values         zero, absurd values, and values at odds with those beside them
    captures       `{path.NAME}` that a route's match does not capture
    matches        conditions that do not compile; two routes that take the same requests
    local_files    certificates, keys and secrets that must be on this machine; for a process, not for `sidecar check`

`layers` and `references` are used while routes are resolved (`config/resolve.py`), the others afterwards.  The shape of
a single value is checked by its spec (`config/validate.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.config.checks.captures import check_captures
from sidecar.config.checks.listeners import check_listeners
from sidecar.config.checks.matches import check_matches
from sidecar.config.checks.times import check_times
from sidecar.config.checks.upstreams import check_upstreams
from sidecar.config.checks.values import Values, check_stored
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec

ROUTES: Final = 20
"""Routes that are checked between two pauses."""


def check_policies(spec: PolicySpec, report: Report, pace: Callable[[], object] = lambda: None) -> None:
    """Report what is wrong with, or useless in, policies whose values are well-formed; `pace` may pause the thread."""
    values = Values(report)
    values.check(spec)
    check_listeners(spec, report)
    check_upstreams(spec, report)
    for number, route in enumerate(spec.routes):
        check_times(route, report)
        check_captures(route, report)
        for key, block in route.blocks.items():
            values.check_block(key, block, route.node.child(key))
        if number % ROUTES == 0:
            pace()
    check_matches(spec, report)
    check_stored(spec, report)
