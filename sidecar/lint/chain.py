"""Chain of services: which one calls which, and what their policies mean together.

Each set of policies is one service, by its `service` name.  An upstream leads to the service with the same name as the
upstream, as the first label of an endpoint's host (`http://inventory-1:8080` is `inventory`), or as a topology file
says:

    calls:
      web: {backend: orders}          # the upstream `backend` of web is the service orders

A path begins at a route that clients of a service reach, goes through the service to its outbound routes, and on to the
routes of the next service.  Which of its outbound routes a service calls for a request is not known, so all count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import ceil, inf, isinf, prod
from typing import Final, NamedTuple

from sidecar.config.files import Source, parse
from sidecar.config.process_spec import OUTBOUND
from sidecar.config.report import Report
from sidecar.config.spec import AGGREGATE, NO_LISTENER, PolicySpec
from sidecar.config.validate import validate
from sidecar.core.spec import Model, Problem
from sidecar.lint.arithmetic import number, seconds
from sidecar.lint.facts import Policies, RouteFacts, UpstreamFacts
from sidecar.upstream.endpoint import parse_endpoint

MOST_PATHS: Final = 500
"""Most paths that are followed."""
MOST_HOPS: Final = 30
"""Most routes of one path."""
_REPLICA: Final = re.compile(r"[-_]?\d+$")
"""Matches the number of a replica at the end of a host name."""


class TopologySpec(Model):
    """Content of a topology file."""

    calls: dict[str, dict[str, str]]
    """Service that an upstream leads to, by the names of the calling service and of its upstream."""


class Hop(NamedTuple):
    """Route of one service on a path."""

    service: str
    route: RouteFacts
    is_entry: bool
    """True for a route that a request comes in by; False for one by which the service calls another."""

    @property
    def name(self) -> str:
        """Return service and route, such as `web.shop`."""
        return f"{self.service}.{self.route.name}"


class Path(NamedTuple):
    """Routes from a client's request to the last service that it reaches."""

    hops: tuple[Hop, ...]

    @property
    def services(self) -> tuple[str, ...]:
        """Services in the order of the calls, each once in a row."""
        names = [hop.service for hop in self.hops]
        return tuple(name for index, name in enumerate(names) if index == 0 or names[index - 1] != name)

    @property
    def seconds(self) -> float:
        """Longest time that the client waits."""
        return min((hop.route.worst.seconds for hop in self.hops[:1]), default=inf)

    @property
    def work(self) -> float:
        """Longest time of work for one request, if the remaining time does not travel with the calls."""
        return sum(hop.route.worst.seconds for hop in self.hops)

    @property
    def calls(self) -> int:
        """Most calls of the last service for one request of the client."""
        return prod(self.factors)

    @property
    def factors(self) -> list[int]:
        """Most calls of each route for one request of its own, in the order of the hops."""
        pairs = zip(self.hops, self.hops[1:], strict=False)
        return [_factor(hop.route, following.route) for hop, following in pairs] + [1]

    @property
    def outage(self) -> float:
        """Factor of the load on the last service while all its calls fail, as the retry budgets allow it."""
        return prod(load_in_outage(hop.route) for hop in self.hops[:-1])


class Chain:
    """Services and who calls whom."""

    def __init__(self, specs: Sequence[PolicySpec], topology: Mapping[str, Mapping[str, str]]) -> None:
        self.services = {spec.service: Policies(spec) for spec in specs}
        self._topology = topology
        self.has_more_paths = False
        """True if there are more paths than `MOST_PATHS`, known once `paths` was read."""

    def target(self, service: str, upstream: UpstreamFacts | None) -> str | None:
        """Return the service that an upstream leads to; None if it is none of the chain."""
        if upstream is None:
            return None
        stated = self._topology.get(service, {}).get(upstream.name)
        if stated is not None:
            return stated
        names = [upstream.name]
        names += [parse_endpoint(url).host for url in upstream.spec.urls]
        if (discover := upstream.spec.discover) is not None:
            names.append(discover.dns or (discover.srv or "").lstrip("_").partition("._")[2].partition(".")[2])
            names.append("" if discover.kubernetes is None else discover.kubernetes.service)
        for name in names:
            label = name.partition(".")[0].lower()
            for found in (label, _REPLICA.sub("", label)):
                if found in self.services and found != service:
                    return found
        return None

    def entries(self, service: str) -> list[RouteFacts]:
        """Return the routes by which requests come into a service."""
        return [each for each in self.services[service].routes if each.spec.listener not in (OUTBOUND, NO_LISTENER)]

    def outgoing(self, service: str, entry: RouteFacts) -> list[tuple[RouteFacts, str]]:
        """Return the routes by which a request of an entry goes on, each with the service that it leads to.

        An entry that leads to another service itself goes on by itself.
        """
        if (direct := self.target(service, entry.upstream)) is not None:
            return [(entry, direct)]
        found = []
        parts = set(entry.spec.parts.values())
        for route in self.services[service].routes:
            is_called = route.name in parts if parts else route.spec.listener == OUTBOUND
            target = self.target(service, route.upstream) if is_called else None
            if target is not None:
                found.append((route, target))
        return found

    @cached_property
    def graph(self) -> dict[str, dict[str, None]]:
        """Services that each service calls."""
        return {
            name: {
                target: None
                for entry in self.entries(name) or policies.routes
                for _, target in self.outgoing(name, entry)
            }
            for name, policies in self.services.items()
        }

    @cached_property
    def cycles(self) -> list[list[str]]:
        """Circles of services that call each other, each once."""
        found: dict[frozenset[str], list[str]] = {}

        def follow(name: str, before: list[str]) -> None:
            if name in before:
                circle = before[before.index(name) :]
                found.setdefault(frozenset(circle), [*circle, name])
                return
            for each in self.graph.get(name, ()):
                follow(each, [*before, name])

        for name in self.services:
            follow(name, [])
        return list(found.values())

    @cached_property
    def paths(self) -> list[Path]:
        """Paths from the services that no other one calls to those that call no other; circles are cut."""
        called = {target for targets in self.graph.values() for target in targets}
        firsts = [name for name in self.services if name not in called] or list(self.services)
        found: list[Path] = []
        for name in firsts:
            for entry in self.entries(name):
                for path in self._follow(name, entry, ()):
                    if len(path.services) < 2:
                        continue
                    if len(found) == MOST_PATHS:
                        self.has_more_paths = True
                        return found
                    found.append(path)
        return found

    def _follow(self, service: str, entry: RouteFacts, before: tuple[Hop, ...]) -> Iterator[Path]:
        """Yield the paths that go on from an entry of a service."""
        visited = {hop.service for hop in before}
        hops = (*before, Hop(service, entry, True))
        is_last = True
        for route, target in self.outgoing(service, entry) if len(hops) < MOST_HOPS else ():
            if target in visited or target == service or target not in self.services:
                continue
            through = hops if route is entry else (*hops, Hop(service, route, False))
            for inner in self._entries_for(route, target):
                is_last = False
                yield from self._follow(target, inner, through)
        if is_last:
            yield Path(hops)

    def _entries_for(self, route: RouteFacts, target: str) -> list[RouteFacts]:
        """Return the entries of a service that may take the requests of a route; streams only if all are."""
        entries = self.entries(target)
        if (call := route.spec.match.grpc) is not None:
            entries = [
                each
                for each in entries
                if (match := each.spec.match.grpc) is None
                or (match.service == call.service and None in (match.method, call.method))
                or match == call
            ]
        return [each for each in entries if not each.is_stream] or entries


def _factor(route: RouteFacts, following: RouteFacts) -> int:
    """Return the most calls of the next route of a path for one request; of an aggregate, those of one part."""
    if AGGREGATE not in route.blocks:
        return max(1, route.worst.calls)
    names = [name for name, target in route.spec.parts.items() if target == following.name]
    lists = [route.blocks[AGGREGATE].parts[name].each for name in names]
    return sum(1 if each is None else ceil(each.max / (each.batch or 1)) for each in lists) or 1


def load_in_outage(route: RouteFacts) -> float:
    """Return the factor by which a route multiplies its load while all attempts fail."""
    extra = route.tries * (1 + route.extra) - 1
    if not extra or route.upstream is None:
        return 1.0
    budget = route.upstream.spec.retry_budget
    return 1.0 + (min(extra, budget.ratio) if budget.is_enforced else extra)


def load_topology(source: Source) -> tuple[dict[str, dict[str, str]] | None, list[Problem]]:
    """Return the calls of a topology file; None with problems if the file is wrong."""
    report = Report()
    root = parse(source, {}, report)
    spec = validate(TopologySpec, root, report) if root is not None else TopologySpec.built_in(calls={})
    return (None if report.problems or spec is None else spec.calls), report.problems


# ----- drawing


def _wait(path: Path) -> str:
    """Return how long the client of a path waits."""
    if isinf(path.seconds):
        return "the client may wait without end"
    return f"the client waits {seconds(path.seconds)} at most"


def draw(chain: Chain) -> list[str]:
    """Return the paths as lines of text: each route with its time, its tries, and the calls so far."""
    lines: list[str] = []
    for path in chain.paths:
        lines.append(" > ".join(path.services))
        calls = 1
        rows = []
        for depth, (hop, factor) in enumerate(zip(path.hops, path.factors, strict=True)):
            mark = "" if depth == 0 else "  " * (depth - 1) + "└ "
            words = [seconds(hop.route.worst.seconds)]
            words += [f"{hop.route.tries} tries"] if hop.route.tries > 1 else []
            words += [f"{hop.route.extra + 1} at once"] if hop.route.extra else []
            words += [f"called {calls} times"] if calls > 1 else []
            rows.append((mark + hop.name, ", ".join(words)))
            calls *= factor
        width = max(len(name) for name, _ in rows)
        lines += [f"    {name:<{width}}  {words}" for name, words in rows]
        ends = f"{_wait(path)}; one request makes up to {path.calls} calls of "
        ends += f"{path.services[-1]}; an outage multiplies its load by {number(path.outage)} at most"
        lines += [f"    {ends}", ""]
    if chain.has_more_paths:
        lines.append(f"only the first {MOST_PATHS} paths were followed; name fewer services at a time for the others")
    lines += [f"circle: {' > '.join(circle)}" for circle in chain.cycles]
    return lines or ["none of these services calls another one by the names of its upstreams; write a topology file"]
