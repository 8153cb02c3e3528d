"""Types of the JSON documents that commands such as `sidecar check` print with `--json`.

Rules:

1. Every member is always present; without a value it is null.  `docs/json-documents.md` is generated from these types.
2. Members may be added.  Within a major version, none is removed, renamed or given another meaning.
3. A value from an environment variable is shown as its file has it (`${NAME}`), as in the text.
4. A command that ends with exit code 0 or 1 prints exactly one document.  `ok` is true if the policies have no error.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isinf
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from sidecar.config.node import Mark
from sidecar.core.spec import Problem
from sidecar.telemetry.plain import Masks

if TYPE_CHECKING:
    from sidecar.lint.chain import Chain, Path
    from sidecar.lint.diff import Difference
    from sidecar.lint.run import Finding

Scope = Literal["route", "upstream", "endpoint"]
"""Owner of the state of a stage: one route, an upstream with all its routes, or an endpoint."""

SharedBy = Literal["process", "workers", "fleet"]
"""Processes that share a limit: each process (each of several workers) has its own, all workers of this sidecar share
one, or all processes that use a store do."""


class Place(TypedDict):
    """Place in a policy file."""

    file: str
    """Path of the file, which begins with the path on the command line."""
    line: int
    """Number of the line, from 1."""


class ProblemEntry(TypedDict):
    """Error or warning about the policies."""

    severity: Literal["error", "warning"]
    """Severity; a warning does not change `ok` and the exit code."""
    file: str
    """Path of the file, or the path that cannot be read."""
    line: int
    """Number of the line, from 1; 1 if the file cannot be read."""
    column: int
    """Number of the column, from 1; 1 if the file cannot be read."""
    path: str
    """Keys that lead to the value, such as `routes.order.retry.on`; empty for a file as a whole."""
    message: str
    """Description of the problem, and what would be right."""
    rule: str | None
    """Identifier of the rule of `sidecar lint` that found it, such as `R024`; null for what loading reports."""


class ProblemsDocument(TypedDict):
    """Document of `check`, and of `routes` and `explain` if `ok` is false."""

    ok: bool
    """True if the policies have no error."""
    problems: list[ProblemEntry]
    """Errors first, then warnings, each in the order of files, lines and columns."""


class FindingEntry(TypedDict):
    """Finding of `sidecar lint`."""

    rule: str
    """Identifier of the rule, such as `R024`; `R000` for a plain warning of `sidecar check`."""
    title: str
    """Title of the rule."""
    severity: Literal["error", "warning", "note"]
    """Severity; notes do not change `ok` and the exit code."""
    file: str
    """Path of the file, which begins with the path on the command line."""
    line: int
    """Number of the line, from 1."""
    column: int
    """Number of the column, from 1."""
    path: str
    """Keys that lead to the value; empty for a file as a whole."""
    message: str
    """Description with the computed numbers, and what would be right."""
    anchor: str
    """Page and anchor of the rule in the documentation, such as `lint.md#r024`."""
    fix: str | None
    """Text that `--fix` writes in place of the value; null without a safe one."""
    suppressed: str | None
    """Reason of the comment that suppresses the finding; null if it counts."""


class HopEntry(TypedDict):
    """Route of one service on a path of calls."""

    service: str
    """Name of the service."""
    route: str
    """Name of the route."""
    seconds: float | None
    """Longest time of a request of the route; null without a limit."""
    calls: int
    """Most calls that one request of the route makes of the next one."""


class PathEntry(TypedDict):
    """Path of calls from a client's request to the last service that it reaches."""

    services: list[str]
    """Services in the order of the calls."""
    seconds: float | None
    """Longest time that the client waits; null without a limit."""
    calls: int
    """Most calls of the last service for one request of the client."""
    outage: float
    """Factor by which an outage of the last service multiplies its load at most, as the retry budgets allow it."""
    hops: list[HopEntry]
    """Routes on the way."""


class LintDocument(TypedDict):
    """Document of `lint`."""

    ok: bool
    """True without a problem, an error and a warning that counts."""
    problems: list[ProblemEntry]
    """Errors of loading; if there are some, no rule runs."""
    findings: list[FindingEntry]
    """Findings that count and then suppressed ones, each in the order of files, lines and columns."""
    paths: list[PathEntry]
    """Paths of calls with `--chain`, the first 500 at most; otherwise empty."""


class ChangeEntry(TypedDict):
    """One difference in behaviour."""

    what: str | None
    """Name of the fact that differs; null for a subject that is new or removed."""
    text: str
    """Difference in words."""
    risk: bool
    """True if it may do harm."""
    old: str | None
    """Former value; null for a set of values, and where there is none."""
    new: str | None
    """New value; null for a set of values, and where there is none."""


class SubjectEntry(TypedDict):
    """Route, upstream or section that behaves differently."""

    subject: str
    """Kind and name, such as `route orders`."""
    sentence: str
    """All differences in one line."""
    risk: bool
    """True if one of the differences may do harm."""
    changes: list[ChangeEntry]
    """Differences, risks first."""


class DiffDocument(TypedDict):
    """Document of `diff`, if both sides are without problems."""

    ok: bool
    """True."""
    subjects: list[SubjectEntry]
    """Subjects that behave differently; empty if none does."""
    appeared: list[FindingEntry]
    """Findings of rules that only the new policies have, notes left out."""
    disappeared: list[FindingEntry]
    """Findings of rules that only the old policies have, notes left out."""


class NumbersEntry(TypedDict):
    """Numbers of a replay, of one seed or as a mean; shares are from 0 to 1, times in seconds."""

    requests: int
    """Number of requests."""
    availability: float
    """Share of requests with an answer that is neither an error nor a refusal."""
    goodput: float
    """Share of requests with such an answer that no fallback has made."""
    per_second: float
    """Such answers a second."""
    p50: float
    """Median of the durations."""
    p99: float
    """99th percentile of the durations."""
    load: float
    """Attempts a request."""
    retries: int
    """Number of retries."""
    hedges: int
    """Number of hedges."""
    rescued: int
    """Number of requests with retries or hedges of which one answered well."""
    not_rescued: int
    """Number of requests with retries or hedges of which none answered well."""
    opened: int
    """Number of times that a circuit breaker opened."""
    refused: int
    """Number of requests that a policy refused."""
    hit_ratio: float | None
    """Share of look-ups in caches that needed no fetch; null without a cache."""
    unmatched: int
    """Number of requests for which the policies have no route."""
    bugs: int
    """Number of errors of the sidecar itself."""


class RunsEntry(TypedDict):
    """Numbers of one policy set."""

    mean: NumbersEntry
    """Mean of all seeds."""
    runs: list[NumbersEntry]
    """Numbers of each seed."""


class RecordedEntry(TypedDict):
    """Numbers of the log itself."""

    availability: float
    """Share of requests with an answer that is neither an error nor a refusal."""
    p50: float
    """Median of the durations in seconds."""
    p99: float
    """99th percentile of the durations in seconds."""
    load: float
    """Attempts a request."""


class UnreadableEntry(TypedDict):
    """Lines of a log that could not be read."""

    lines: int
    """Number of these lines."""
    first: list[str]
    """Sentences about the first ones."""


class ReplayDocument(TypedDict):
    """Document of `replay`."""

    ok: bool
    """True if the new policies keep the bounds."""
    better: Literal["old", "new", "neither"]
    """Better policy set; `neither` if the differences are within their tolerances."""
    failures: list[str]
    """Sentences about bounds that the new policies exceed."""
    requests: int
    """Number of requests that were replayed."""
    seconds: float
    """Time from the first to the last request."""
    seeds: list[int]
    """Seeds of the replays."""
    unreadable: UnreadableEntry
    """Lines of the log that could not be read."""
    recorded: RecordedEntry
    """Numbers of the log itself."""
    old: RunsEntry
    """Numbers of the old policies."""
    new: RunsEntry
    """Numbers of the new policies."""
    limits: list[str]
    """Sentences about what the log cannot tell."""


class SuggestionEntry(TypedDict):
    """Value that a log or the figures of a sidecar suggest."""

    path: str
    """Keys that lead to the value, such as `routes.order.timeout.attempt`."""
    place: Place
    """Place of the value in force, or of its owner."""
    old: str | None
    """Value in force; null without one."""
    new: str
    """Suggested value."""
    why: str
    """Evidence."""
    by_hand: str | None
    """Reason why it is not in the patch; null if it is."""
    replayed: NumbersEntry | None
    """Numbers of a replay with this value alone; null without a replay."""


class RecommendDocument(TypedDict):
    """Document of `recommend`."""

    ok: bool
    """True."""
    origin: Literal["log", "figures"]
    """Origin of the evidence: a log, or the figures that a sidecar keeps."""
    requests: int
    """Number of requests in it."""
    seconds: float
    """Time that it covers."""
    suggestions: list[SuggestionEntry]
    """Suggested values; empty if the policies agree with the evidence."""
    before: NumbersEntry | None
    """Numbers of a replay with the policies as they are; null without replays."""
    after: NumbersEntry | None
    """Numbers of a replay with all values of the patch; null without replays."""
    unknown: list[str]
    """Sentences about what the evidence cannot tell."""
    patch: str
    """Change of the files as a unified diff; empty without one."""


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
    grpc: str | None
    """Service, or service and method, of gRPC calls, such as `shop.Orders/Place`; null unless the route has one."""
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
    """Keys of the block that the files contain; all other keys have their defaults."""
    place: Place | None
    """Place of the block."""


class DiscoverEntry(TypedDict):
    """Discovery of the endpoints of an upstream."""

    dns: str | None
    """Name whose addresses are looked up; null for other sources."""
    port: int | str | None
    """Port of all endpoints; a text if an environment variable gives it, null if the source tells it."""
    source: str
    """Source, such as `dns:payments.svc:8080`, `srv:_http._tcp.payments.svc`, `file:/run/endpoints` or
    `kubernetes:shop/orders:http`."""


class TargetEntry(TypedDict):
    """Upstream of a route."""

    name: str
    """Name of the upstream."""
    endpoints: list[str]
    """URLs of the endpoints; empty if they are discovered."""
    discover: DiscoverEntry | None
    """Discovery of the endpoints; null if the files list them."""
    place: Place | None
    """Place of the upstream."""


class BindingEntry(TypedDict):
    """Requests that a route turns into calls of one method of gRPC (`translate`)."""

    method: str | None
    """HTTP method; null for any."""
    path: str
    """Path template of `google.api.http`."""
    calls: str
    """Method that is called, such as `shop.Orders/Get`."""
    is_stream: bool
    """True if the answer is a stream of messages."""
    needs_websocket: bool
    """True if the requests are a stream, for which clients open a WebSocket."""


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
    upstream: TargetEntry | None
    """Upstream that its requests go to; null for a route with `aggregate`."""
    bindings: list[BindingEntry]
    """Requests that `translate` turns into calls; empty without that block."""


class RoutesDocument(TypedDict):
    """Document of `routes` if `ok` is true."""

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
    is_grpc_web: bool
    """True for a call of gRPC-Web, which goes on as one of gRPC."""


class ValueEntry(TypedDict):
    """Effective value."""

    key: str
    """Keys within the block, such as `backoff.base`."""
    value: Any
    """Value in the notation of policy files, such as `3s`; lists and mappings are JSON."""
    place: Place | None
    """Place of the value; null for a built-in default."""


class BlockEntry(TypedDict):
    """Stage with all its values."""

    policy: str
    """Name of its block."""
    scope: Scope
    """`route`, or `upstream` for a limit of all routes of the upstream."""
    values: list[ValueEntry]
    """Effective values."""


class UpstreamEntry(TypedDict):
    """Upstream with all its values."""

    name: str
    """Name of the upstream."""
    values: list[ValueEntry]
    """Effective values, without those of its stages."""


class PartEntry(TypedDict):
    """Part of an aggregated answer."""

    name: str
    """Name of the part."""
    level: int
    """Place in the order, from 1; parts of one level may run at the same time."""
    method: str
    """Method of its request."""
    path: str
    """Path and query, with references."""
    route: str
    """Route through which the request goes."""
    upstream: str | None
    """Upstream of that route; null for a route with `aggregate`."""
    policies: list[str]
    """Names of the stages of that route, outermost first."""
    needs: list[str]
    """Parts whose answers it needs."""
    each: str | None
    """List for each item of which the part is asked; null without one."""
    timeout: float | None
    """Longest time in seconds; null for all the time that is left."""
    is_required: bool
    """True if the whole fails without the part."""
    otherwise: list[Any]
    """Substitutes in their order: `stale` or an object with `json`; null after the last."""
    streams: bool
    """True if its body passes as it arrives."""
    place: Place | None
    """Place of the part."""


class PlanEntry(TypedDict):
    """Plan of an aggregated answer."""

    parts: list[PartEntry]
    """Parts in the order in which they run."""
    answer: str
    """Form of the answer: `nested`, `merged` or `template`."""
    seconds: float | None
    """Longest time of one request in seconds; null without a limit."""
    requests: int
    """Most requests of parts, with all items of lists."""
    calls: int
    """Most calls of upstreams, with retries and hedges."""


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
    upstream: UpstreamEntry | None
    """Upstream that the request goes to; null for a route with `aggregate`."""
    aggregate: PlanEntry | None
    """Parts of the answer; null for a route without `aggregate`."""
    criticality: ValueEntry
    """Importance of its requests."""
    cors: list[str] | None
    """Sentences on what pages of the request's origin may do; null for a route without `cors`."""
    authorize: list[str] | None
    """Sentences on the rule that decides; null for a route without `authorize`."""
    rate_limit: list[str] | None
    """Sentences on the rate limits and the keys of the request; null for a route without one."""
    quota: list[str] | None
    """Sentences on the quotas and the keys of the request; null for a route without one."""
    cache: list[str] | None
    """Sentences on what the cache does with the request and its response; null for a route without a cache."""
    translate: list[str] | None
    """Sentences on the call of gRPC that the request becomes; null for a route without a `translate` block."""
    workers: int
    """Number of workers; 1 for a sidecar of one process."""
    scopes: list[ScopeEntry]
    """Scopes of the route's limits, from the outside in, and then those of its upstream's states."""


class ScopeEntry(TypedDict):
    """Scope of one limit, or of another state."""

    policy: str
    """Name of its block, such as `rate_limit`."""
    name: str | None
    """Name of the limit within the block; null for a block with one."""
    shared_by: SharedBy
    """Processes that share it: `process` (each worker has its own), `workers` (one for all workers of this sidecar) or
    `fleet` (one for all processes that use its store)."""


class ReadingEntry(TypedDict):
    """Reading of a path by some servers."""

    path: str
    """Path that these servers read."""
    route: str | None
    """Route that would take this path; null for none."""


class RefusalEntry(TypedDict):
    """Reason why a request takes no route."""

    status: Literal[200, 404, 405, None]
    """Status of the response; 200 for `OPTIONS *`, which the listener itself answers.  Null for a redirected request,
    which goes on to the address that its client has dialled."""
    message: str
    """Reason in a sentence."""
    allowed: list[str]
    """Methods that have a route for this path, with 200 for any path; empty with 404."""
    readings: list[ReadingEntry]
    """Readings of the path, if they lead to different routes; otherwise empty."""


class OtherEntry(TypedDict):
    """Route that the request nearly takes."""

    name: str
    """Name of the route."""
    why: str
    """Reason why it does not take the request."""
    place: Place | None
    """Place of its conditions."""


class ExplainDocument(TypedDict):
    """Document of `explain` if `ok` is true."""

    ok: Literal[True]
    """True, because the policies have no error, even if the request takes no route."""
    request: RequestEntry
    """Request that is explained."""
    route: TakenEntry | None
    """Route that the request takes; null if `refusal` is set."""
    refusal: RefusalEntry | None
    """Reason why the request takes no route; null if `route` is set."""
    other_routes: list[OtherEntry]
    """Other routes that also match or fail in only one condition, most specific first; at most 10."""
    has_more_routes: bool
    """True if there are more such routes."""
    capture: list[str] | None
    """Sentences on where redirected connections of each protocol go; null for a listener that takes none."""
    token: list[str] | None
    """Sentences on which identities of the route accept the token of `--token-file`; null without one."""


SHAPES = (
    ProblemsDocument, ProblemEntry, LintDocument, FindingEntry, PathEntry, HopEntry, DiffDocument, SubjectEntry,
    ChangeEntry, ReplayDocument, RecordedEntry, RunsEntry, NumbersEntry, UnreadableEntry, RecommendDocument,
    SuggestionEntry, RoutesDocument, RouteEntry, MatchEntry, StageEntry, TargetEntry, BindingEntry, DiscoverEntry,
    ExplainDocument, RequestEntry, TakenEntry, BlockEntry, UpstreamEntry, PlanEntry, PartEntry, ValueEntry,
    ScopeEntry, RefusalEntry, ReadingEntry, OtherEntry, Place,
)  # fmt: skip
"""All types of documents and their parts, in the order of the reference."""


def problems_document(
    errors: Iterable[Problem], warnings: Iterable[Problem] = (), findings: Iterable[Finding] = ()
) -> ProblemsDocument:
    """Return the document of errors, of warnings of loading, and of findings of `sidecar lint`."""
    entries = [_problem("error", each) for each in errors]
    found = [_problem("warning", each) for each in warnings]
    found += [_problem("warning", each.problem, each.rule) for each in findings]
    found.sort(key=lambda each: (each["file"], each["line"], each["column"]))
    return {"ok": not entries, "problems": entries + found}


def diff_document(difference: Difference) -> DiffDocument:
    """Return the document of a change of policies."""
    subjects = [
        SubjectEntry(
            subject=each.name, sentence=each.sentence, risk=each.is_risk,
            changes=[
                ChangeEntry(what=change.name or None, text=change.text, risk=change.is_risk,
                            old=change.old or None, new=change.new or None)
                for change in each.changes
            ],
        )
        for each in difference.subjects
    ]  # fmt: skip
    appeared = [_finding(each) for each in difference.appeared]
    disappeared = [_finding(each) for each in difference.disappeared]
    return {"ok": True, "subjects": subjects, "appeared": appeared, "disappeared": disappeared}


def lint_document(
    problems: Iterable[Problem], found: Iterable[Finding], hidden: Iterable[Finding], chain: Chain | None = None
) -> LintDocument:
    """Return the document of a run of the rules."""
    errors = [_problem("error", each) for each in problems]
    counted = list(found)
    is_ok = not errors and all(each.severity == "note" for each in counted)
    paths = [] if chain is None else [_path(each) for each in chain.paths]
    findings = [_finding(each) for each in (*counted, *hidden)]
    return {"ok": is_ok, "problems": errors, "findings": findings, "paths": paths}


def _path(path: Path) -> PathEntry:
    def finite(seconds: float) -> float | None:
        return None if isinf(seconds) else seconds

    hops = [
        HopEntry(service=hop.service, route=hop.route.name, seconds=finite(hop.route.worst.seconds), calls=factor)
        for hop, factor in zip(path.hops, path.factors, strict=True)
    ]
    return {
        "services": list(path.services), "seconds": finite(path.seconds), "calls": path.calls, "outage": path.outage,
        "hops": hops,
    }  # fmt: skip


def _finding(finding: Finding) -> FindingEntry:
    from sidecar.lint.known import every_rule

    rule = every_rule()[finding.rule]
    file, line, column, path, message = finding.problem
    return {
        "rule": finding.rule, "title": rule.title, "severity": finding.severity, "file": file, "line": line,
        "column": column, "path": path, "message": message, "anchor": rule.anchor,
        "fix": finding.fix.new if finding.fix is not None else None, "suppressed": finding.reason or None,
    }  # fmt: skip


def _problem(severity: Literal["error", "warning"], problem: Problem, rule: str | None = None) -> ProblemEntry:
    file, line, column, path, message = problem
    return {
        "severity": severity, "file": file, "line": line, "column": column, "path": path, "message": message,
        "rule": rule,
    }  # fmt: skip


def place_of(mark: Mark | None) -> Place | None:
    """Return a place as JSON-ready values; None for a built-in value."""
    return {"file": mark.file, "line": mark.line} if mark is not None and mark.line else None


def masked(value: Any, masks: Masks) -> Any:
    """Return plain values as JSON-ready values with all texts masked."""
    if isinstance(value, str):
        return masks.text(value)
    if isinstance(value, dict):
        return {masks.text(key): masked(member, masks) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(member, masks) for member in value]
    return value
