"""Shapes of the JSON documents that `sidecar check`, `routes` and `explain` print with `--json`.

Rules:

1. Every member is always there; one without a value is null.  `docs/json-documents.md` is made of these classes.
2. Members may be added to a shape.  None is removed, renamed or given another meaning within a major version.
3. What comes from an environment variable is shown as its file has it (`${NAME}`), as in the text.
4. A command that ends with exit code 0 or 1 prints exactly one document.  `ok` is true if the policies have no error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypedDict

from sidecar.config.node import Mark
from sidecar.core.spec import Problem
from sidecar.telemetry.plain import Masks

Scope = Literal["route", "upstream", "endpoint"]
"""What shares the state of a stage: one route, all routes of an upstream, or all requests to one endpoint."""


class Place(TypedDict):
    """Place in a policy file."""

    file: str
    """Path of the file, as the command line or its directory names it."""
    line: int
    """Line, 1 for the first."""


class ProblemEntry(TypedDict):
    """Mistake in the policies."""

    severity: Literal["error", "warning"]
    """A warning leaves `ok` and the exit code as they are."""
    file: str
    """Path of the file, or the path that cannot be read."""
    line: int
    """Line, 1 for the first; also 1 where a file cannot be read."""
    column: int
    """Column, 1 for the first; also 1 where a file cannot be read."""
    path: str
    """Keys that lead to the value, such as `routes.order.retry.on`; empty for a file as a whole."""
    message: str
    """What is wrong, and what would be right."""


class ProblemsDocument(TypedDict):
    """Document of `check`, and of `routes` and `explain` where `ok` is false."""

    ok: bool
    """True if the policies have no error."""
    problems: list[ProblemEntry]
    """Errors first, then warnings, each in the order of files, lines and columns."""


class MatchEntry(TypedDict):
    """Conditions of a route, as its file has them."""

    methods: list[str] | None
    """Methods; null for any."""
    host: str | None
    """Host; null for any."""
    path: str | None
    """Path or template, such as `/orders/{id}`; null unless the route has one."""
    path_prefix: str | None
    """Prefix of the path; null unless the route has one."""
    path_regex: str | None
    """Pattern of the path; null unless the route has one."""
    headers: dict[str, str]
    """Values that header fields must have."""
    query: dict[str, str]
    """Values that query parameters must have."""
    when: str | None
    """Condition on the request; null unless the route has one."""


class StageEntry(TypedDict):
    """Stage of a route."""

    policy: str
    """Name of its block."""
    scope: Scope
    """`route`, `upstream` for a limit of all routes of the upstream, `endpoint` for a breaker of each endpoint."""
    settings: Any
    """Block as the files give it; what they leave out is built in."""
    place: Place | None
    """Place of the block."""


class DiscoverEntry(TypedDict):
    """Name that the endpoints of an upstream are looked up by."""

    dns: str
    """Name."""
    port: int | str
    """Port; text where an environment variable gives it."""


class TargetEntry(TypedDict):
    """Upstream of a route."""

    name: str
    """Name of the upstream."""
    endpoints: list[str]
    """URLs; empty where they are discovered."""
    discover: DiscoverEntry | None
    """Discovery; null where the endpoints are written down."""
    place: Place | None
    """Place of the upstream."""


class RouteEntry(TypedDict):
    """Route with its stages."""

    name: str
    """Name of the route."""
    listener: str | None
    """Listener whose requests it takes; null for every listener."""
    place: Place | None
    """Place of the route."""
    match: MatchEntry
    """Conditions that a request must meet."""
    stages: list[StageEntry]
    """Stages in the order in which a request passes them, the outermost first."""
    upstream: TargetEntry
    """Upstream that its requests go to."""


class RoutesDocument(TypedDict):
    """Document of `routes` where `ok` is true."""

    ok: Literal[True]
    """True: the policies have no error."""
    routes: list[RouteEntry]
    """Routes in the order of the files."""


class RequestEntry(TypedDict):
    """Request that is explained."""

    method: str
    """Method."""
    target: str
    """Path and query, without dot segments."""
    host: str | None
    """Host and port; null for a request without a host."""
    listener: str
    """Listener that gets the request."""


class ValueEntry(TypedDict):
    """Value in force."""

    key: str
    """Keys within the block, such as `backoff.base`."""
    value: Any
    """Value as a file writes it: `250ms`, `50%`, `[GET, HEAD]` as a list."""
    place: Place | None
    """Place where it is written; null for a built-in value."""


class BlockEntry(TypedDict):
    """Stage with all its values."""

    policy: str
    """Name of its block."""
    scope: Scope
    """`route`, or `upstream` for a limit of all routes of the upstream."""
    values: list[ValueEntry]
    """Values in force."""


class UpstreamEntry(TypedDict):
    """Upstream with all its values."""

    name: str
    """Name of the upstream."""
    values: list[ValueEntry]
    """Values in force, but for those of its stages."""


class TakenEntry(TypedDict):
    """Route that a request takes."""

    name: str
    """Name of the route."""
    place: Place | None
    """Place of the route."""
    match: MatchEntry
    """Conditions, which the request meets."""
    captures: dict[str, str]
    """Values of the parameters in its path."""
    stages: list[BlockEntry]
    """Stages in the order in which the request passes them, the outermost first."""
    upstream: UpstreamEntry
    """Upstream that the request goes to."""
    criticality: ValueEntry
    """Importance of its requests."""
    cache: list[str] | None
    """Sentences on what the cache does with the request and its answer; null for a route without a cache."""


class ReadingEntry(TypedDict):
    """Way in which some servers read a path."""

    path: str
    """Path as they read it."""
    route: str | None
    """Route that would take it; null for none."""


class RefusalEntry(TypedDict):
    """Reason why a request takes no route."""

    status: Literal[404, 405]
    """Status of the answer."""
    message: str
    """Reason in a sentence."""
    allowed: list[str]
    """Methods that have a route for this path; empty with 404."""
    readings: list[ReadingEntry]
    """Ways in which servers read the path, where these lead to different routes; empty otherwise."""


class OtherEntry(TypedDict):
    """Route that the request nearly takes."""

    name: str
    """Name of the route."""
    why: str
    """Reason why it does not take the request."""
    place: Place | None
    """Place of its conditions."""


class ExplainDocument(TypedDict):
    """Document of `explain` where `ok` is true."""

    ok: Literal[True]
    """True: the policies have no error.  The request may take no route all the same."""
    request: RequestEntry
    """Request that is explained."""
    route: TakenEntry | None
    """Route that the request takes; null where `refusal` is not."""
    refusal: RefusalEntry | None
    """Reason why it takes no route; null where `route` is not."""
    other_routes: list[OtherEntry]
    """Routes that match too, or fail in one condition alone, the most specific first; at most 10."""
    has_more_routes: bool
    """True if there are more of these."""


SHAPES = (
    ProblemsDocument, ProblemEntry, RoutesDocument, RouteEntry, MatchEntry, StageEntry, TargetEntry, DiscoverEntry,
    ExplainDocument, RequestEntry, TakenEntry, BlockEntry, UpstreamEntry, ValueEntry, RefusalEntry, ReadingEntry,
    OtherEntry, Place,
)  # fmt: skip
"""All shapes, in the order of the reference."""


def problems_document(errors: Iterable[Problem], warnings: Iterable[Problem] = ()) -> ProblemsDocument:
    """Return the document of problems."""
    entries = [_problem("error", each) for each in errors]
    return {"ok": not entries, "problems": entries + [_problem("warning", each) for each in warnings]}


def _problem(severity: Literal["error", "warning"], problem: Problem) -> ProblemEntry:
    file, line, column, path, message = problem
    return {"severity": severity, "file": file, "line": line, "column": column, "path": path, "message": message}


def place_of(mark: Mark | None) -> Place | None:
    """Return a place of a file; None for a built-in value."""
    return {"file": mark.file, "line": mark.line} if mark is not None and mark.line else None


def masked(value: Any, masks: Masks) -> Any:
    """Return plain values as JSON-ready ones in which every text is masked."""
    if isinstance(value, str):
        return masks.text(value)
    if isinstance(value, dict):
        return {masks.text(key): masked(member, masks) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(member, masks) for member in value]
    return value
