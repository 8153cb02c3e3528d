"""Dapr's resiliency (dapr.io/v1alpha1): policies of the apps that a service calls, as upstreams and routes.

The file names apps and not their addresses, so each upstream has an address to be checked.  A route takes the calls as
a service makes them to Dapr: `/v1.0/invoke/APP/method/PATH` on port 3500.  A second one takes those with the field
`dapr-app-id`.

Where Dapr differs: a timeout bounds one attempt; `maxRetries` counts retries; every status from 400 on is a failure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.imports.access.protection import REFUSED
from sidecar.imports.access.rules import Access, Forward
from sidecar.imports.access.tokens import Tokens
from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.fields import LIMIT, NUMBER, Field, copy, duration_of
from sidecar.imports.kubernetes import name_of, read_objects, report_unread
from sidecar.imports.retries import ALL_METHODS, FAULTS, MOST_ATTEMPTS, bounded, repeats_every_method
from sidecar.imports.source import Part

ADDRESS: Final = "127.0.0.1:3500"
EVERY_STATUS: Final = ["4xx", "5xx"]
GRPC_CODES: Final = (
    "", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated",
)  # fmt: skip
"""Names of gRPC's status codes by their number."""
BREAKER: Final = (
    Field("maxRequests", "half_open.probes", NUMBER),
    Field("timeout", "open_for", LIMIT),
    Field("timeout", "max_open_for", LIMIT),
)
TRIP: Final = re.compile(r"\s*consecutiveFailures\s*(>=?)\s*([0-9]{1,6})\s*")
OTHER_TARGETS: Final = {
    "actors": "calls of actors have no equal here",
    "components": "calls of components, such as state stores and brokers, have no equal here",
}
GUARDS: Final = ("bearer", "oauth2", "opa")
"""Words in the kinds of middlewares that keep requests out."""
UNUSED: Final = "no app of the file uses it"


def read_dapr(draft: Draft, text: str) -> None:
    """Add the policies of a file with Dapr's resiliency.  Raises `TranslationError`."""
    objects = read_objects(draft, text, ("Resiliency", "Configuration", "Component"))
    access, limits = Access(draft), dict[str, Any]()
    components = {name_of(each): each for each in objects["Component"]}
    for each in objects["Configuration"]:
        _add_pipeline(draft, each, components, access, limits)
    for each in objects["Resiliency"]:
        _Resiliency(draft, each, access, limits).add()
    report_unread(objects)


def _add_pipeline(
    draft: Draft, part: Part, components: dict[str, Part], access: Access, limits: dict[str, Any]
) -> None:
    """Add the middlewares of the calls of a service."""
    if (control := part.get("spec", "accessControl")) is not None:
        control.lose("holds for calls that the service gets; write `authorize` for the route to it")
    if (pipeline := part.get("spec", "appHttpPipeline")) is not None:
        pipeline.lose("holds for calls that the service gets; write its policies for the route to it")
    for each in part.items("spec", "httpPipeline", "handlers"):
        kind, found = each.text("type"), components.get(each.text("name"))
        values = {one.text("name"): one for one in found.items("spec", "metadata")} if found is not None else {}
        if found is not None:
            found.text("spec", "type")
            found.label("scopes")
            found.get("spec", "version")
        if kind == "middleware.http.bearer" and found is not None:
            _add_tokens(draft, each, name_of(found), values, access)
        elif kind == "middleware.http.ratelimit" and "maxRequestsPerSecond" in values:
            most = values["maxRequestsPerSecond"]
            limits["rate_limit"] = [{
                "name": Value("imported", ""), "rate": draft.value(f"{most.number('value') or 1}/s", most.line),
                "key": Value("client.address", "Dapr counts each address"),
            }]  # fmt: skip
        elif any(word in kind for word in GUARDS):
            each.lose(REFUSED)
            access.refuse(each.line, kind)
        else:
            each.lose()


def _add_tokens(draft: Draft, part: Part, name: str, values: dict[str, Part], access: Access) -> None:
    """Ask for the tokens of a middleware."""
    spelt = {key.lower(): each for key, each in values.items()}
    issuer = next((spelt[key] for key in ("issuer", "issuerurl") if key in spelt), None)
    audience = next((spelt[key] for key in ("audience", "clientid") if key in spelt), None)
    if issuer is None or not issuer.text("value"):
        part.lose(f"has no issuer; {REFUSED}")
        access.refuse(part.line, "middleware.http.bearer")
        return
    block: dict[str, Any] = {"issuer": draft.value(issuer.text("value"), issuer.line)}
    if audience is not None:
        block["audiences"] = draft.value([audience.text("value")], audience.line)
    if (url := spelt.get("jwksurl")) is not None:
        put(block, "keys.url", draft.value(url.text("value"), url.line))
    tokens = Tokens(draft)
    tokens.ask(access, [tokens.identity(name, block, Forward())], part.line, optional=False)


class _Resiliency:
    """Resiliency under translation."""

    def __init__(self, draft: Draft, part: Part, access: Access, limits: dict[str, Any]) -> None:
        self.draft = draft
        self.part = part
        self.access = access
        """Access rules of all calls."""
        self.limits = limits
        """Limits of all calls."""
        self.policies = {
            kind: dict(part.members("spec", "policies", kind)) for kind in ("timeouts", "retries", "circuitBreakers")
        }
        self.used: set[tuple[str, str]] = set()

    def add(self) -> None:
        """Add an upstream and routes for each app."""
        for name, app in self.part.members("spec", "targets", "apps"):
            self._add_app(name, app)
        for kind, why in OTHER_TARGETS.items():
            for _, target in self.part.members("spec", "targets", kind):
                target.lose(why)
        if (scopes := self.part.get("scopes")) is not None:
            scopes.differ("holds for these apps there, and for each sidecar with this file here")
            scopes.take()
        for kind, known in self.policies.items():
            for name, policy in known.items():
                if (kind, name) not in self.used:
                    policy.lose(f"{UNUSED}; write `defaults` for all" if name.startswith("Default") else UNUSED)

    def _add_app(self, name: str, app: Part) -> None:
        draft = self.draft
        keys: dict[str, Any] = {
            "endpoints": [Value(f"http://{name}:80", f"{app.place} names an app; write its address", app.line)]
        }
        timeout = self._policy("timeouts", app, "timeout")
        if timeout is not None:
            put(keys, "policy.timeout.request", Value("off", "Dapr has no limit for the whole request"))
            put(keys, "policy.timeout.attempt", duration_of(draft, timeout, zero="off", unit="ms"))
        retry = self._policy("retries", app, "retry")
        if retry is not None:
            put(keys, "policy.retry", self._retry(retry))
        breaker = self._policy("circuitBreakers", app, "circuitBreaker")
        if breaker is not None and (block := self._breaker(breaker)):
            keys["circuit_breaker"] = block
        if (size := app.get("circuitBreakerCacheSize")) is not None:
            size.take()
        upstream = draft.upstream(name, keys)
        listener = draft.listener_at("outbound", ADDRESS, app.line)
        path = f"/v1.0/invoke/{name}/method"
        target: dict[str, Any] = {"listener": listener, "upstream": draft.value(upstream, app.line), **self.limits}
        self.access.apply(target)
        rewritten = {"transform": {"request": {"path_prefix": {path: draft.value("/", app.line)}}}}
        draft.route(name, app.line, {**target, "match": {"path_prefix": draft.value(path, app.line)}, **rewritten})
        field = {"dapr-app-id": draft.value(name, app.line)}
        draft.route(f"{name}-by-id", app.line, {**target, "match": {"headers": field}})

    def _policy(self, kind: str, app: Part, key: str) -> Part | None:
        """Return the policy of a kind that an app names; None without one, or for one that is not in the file."""
        stated = app.get(key)
        if stated is None:
            return None
        self.used.add((kind, stated.text()))
        found = self.policies[kind].get(stated.text())
        if found is None:
            stated.lose(f"`{stated.text()}` is not in the file")
        return found

    def _retry(self, part: Part) -> Any:
        draft = self.draft
        stated = part.get("maxRetries")
        spelt = stated.text() if stated is not None else "-1"
        retries = int(spelt) if re.fullmatch(r"[0-9]{1,6}", spelt) else None
        if spelt == "0":
            return draft.value("off", part.line)
        place = stated if stated is not None else part
        attempts = bounded(place, MOST_ATTEMPTS + 1 if retries is None else retries + 1)
        keys: dict[str, Any] = {
            "max_attempts": draft.value(attempts, place.line),
            "on": self._statuses(part),
            "methods": Value(ALL_METHODS, repeats_every_method("Dapr")),
        }
        if part.text("policy").lower() == "exponential":
            longest = part.get("maxInterval")
            most = duration_of(draft, longest, unit="ms") if longest is not None else Value("60s", "Dapr's default")
            keys["backoff"] = {
                "base": Value("500ms", "Dapr's default"),
                "max": most,
                "jitter": Value("equal", "the nearest to Dapr's half"),
            }
            part.differ("each wait is twice as long as the one before here, and one and a half times there")
        else:
            wait = part.get("duration")
            length = duration_of(draft, wait, unit="ms") if wait is not None else Value("5s", "Dapr's default")
            keys["backoff"] = {"base": length, "max": length, "jitter": Value("none", "constant")}
        return keys

    def _statuses(self, part: Part) -> Value:
        """Return the conditions of a retry."""
        http, grpc = part.get("matching", "httpStatusCodes"), part.get("matching", "gRPCStatusCodes")
        if http is None and grpc is None:
            return Value([*FAULTS, *EVERY_STATUS], "Dapr's default")
        found: list[Any] = list(FAULTS)
        if http is not None:
            found += _codes(http)
        for first, last in _ranges(grpc) if grpc is not None else []:
            found += [GRPC_CODES[code] for code in range(max(1, first), min(last, len(GRPC_CODES) - 1) + 1)]
        line = http.line if http is not None else grpc.line if grpc is not None else part.line
        return self.draft.value(list(dict.fromkeys(found)), line)

    def _breaker(self, part: Part) -> dict[str, Any]:
        draft = self.draft
        trip = part.get("trip")
        match = TRIP.fullmatch(trip.text()) if trip is not None else None
        if trip is not None and match is None:
            trip.lose("only `consecutiveFailures > N` has an equal here; the whole breaker is left out")
            return {}
        many = Value(6, "Dapr's default")
        if trip is not None and match is not None:
            many = draft.value(max(1, int(match[2]) + (match[1] == ">")), trip.line)
        keys: dict[str, Any] = {
            "per": Value("endpoint", "Dapr has a breaker for each address of an app"),
            "failure_rate": Value("off", "Dapr counts failures in a row"),
            "consecutive_failures": many,
            "failures": Value([*FAULTS, *EVERY_STATUS], "what Dapr counts as a failure"),
            "open_for": Value("60s", "Dapr's default"),
            "max_open_for": Value("60s", "Dapr's default"),
            "half_open": {"probes": Value(1, "Dapr's default"), "ramp": "0s"},
        }
        copy(draft, part, keys, BREAKER, unit="ms")
        interval = part.get("interval")
        if interval is not None and interval.text() not in ("0", "0s"):
            interval.lose("failures in a row are counted until a success, for however long")
        return keys


def _ranges(part: Part) -> list[tuple[int, int]]:
    """Return the ranges of a list such as `429,500-599`.  Raises `TranslationError` for another text."""
    found: list[tuple[int, int]] = []
    for word in part.text().split(","):
        match = re.fullmatch(r"\s*([0-9]{1,3})(?:\s*-\s*([0-9]{1,3}))?\s*", word)
        if match is None:
            raise part.fail(f"is `{part.text()}`; codes such as 429,500-599 would be right")
        found.append((int(match[1]), int(match[2] or match[1])))
    return found


def _codes(part: Part) -> list[Any]:
    """Return statuses, with `5xx` for a whole hundred."""
    found: list[Any] = []
    for first, last in _ranges(part):
        code = max(100, first)
        while code <= min(last, 599):
            is_whole = code % 100 == 0 and code + 99 <= last
            found.append(f"{code // 100}xx" if is_whole else code)
            code += 100 if is_whole else 1
    return found
