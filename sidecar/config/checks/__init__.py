"""Checks across values of policies: errors for what cannot work, warnings for what has no effect.

    layers         keys and blocks of one layer of policies, before it is merged
    references     names that routes use are declared; declared names are used
    listeners      two listeners with one address; an admin listener that is open to others
    upstreams      an ejection that can never happen; an endpoint that is a listener of this sidecar
    aggregations   parts of one answer: names, circles, paths, the worst case in time and calls
    authorizations rules that never allow, have no effect, or allow everything
    cross_origin   preflights that cannot find their route; credentials for pages without TLS
    calls          routes of gRPC: HTTP/2 to the upstream, a retry that can happen
    identities     routes that everyone may call beside others; tokens for other services; keys over plain http
    times          timeouts, attempts, hedges and queues of which one makes the other useless
    values         values that are zero, absurd, or contradict a value beside them
    limits         rate limits that refuse nothing, refuse too much, or can be evaded
    workers        limits that are too small to be shared by several workers
    captures       `{path.NAME}` that the match of a route does not capture
    matches        conditions that do not compile; two routes that take the same requests
    translations   descriptor sets of `translate`, and methods that are not served
    local_files    certificates that expire; keys and secrets that must exist, which is not part of `sidecar check`

`layers` and `references` run while routes are resolved (`config/resolve.py`), the others afterwards.  A single value is
checked by its spec (`config/validate.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.config.checks.aggregations import check_aggregations
from sidecar.config.checks.authorizations import check_authorization
from sidecar.config.checks.calls import check_calls
from sidecar.config.checks.captures import check_captures
from sidecar.config.checks.cross_origin import check_cross_origin
from sidecar.config.checks.identities import check_identities
from sidecar.config.checks.limits import check_limits
from sidecar.config.checks.listeners import check_listeners
from sidecar.config.checks.local_files import check_certificates
from sidecar.config.checks.matches import check_matches
from sidecar.config.checks.times import check_times
from sidecar.config.checks.translations import check_translations
from sidecar.config.checks.upstreams import check_upstreams
from sidecar.config.checks.values import Values, check_stored
from sidecar.config.checks.workers import check_workers
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec

ROUTES: Final = 20
"""Number of routes that are checked between two calls of `pace`."""


def check_policies(spec: PolicySpec, report: Report, pace: Callable[[], object] = lambda: None) -> None:
    """Report errors and warnings about policies whose single values are valid; `pace` may pause the thread."""
    values = Values(report)
    values.check(spec)
    check_listeners(spec, report)
    check_upstreams(spec, report)
    check_calls(spec, report)
    check_identities(spec, report)
    check_certificates(spec, report)
    check_limits(spec, report)
    check_workers(spec, report)
    known = spec.routes_with_callers()
    for number, route in enumerate(spec.all_routes):
        check_times(route, report)
        check_captures(route, report)
        check_cross_origin(route, report)
        check_authorization(route, report, has_callers=route.name in known)
        for key, block in route.blocks.items():
            values.check_block(key, block, route.node.child(key))
        if number % ROUTES == 0:
            pace()
    check_translations(spec, report)
    check_aggregations(spec, report)
    check_matches(spec, report)
    check_stored(spec, report)
