"""Policy file from the configuration of another proxy.

Rules:

1. The policy file passes `sidecar check`: a value that it would refuse is taken out and reported with its line.  A
   route whose match or upstream would be refused is taken out whole: without them it would take other requests.
2. A route whose access rules would be refused refuses all requests instead.
3. A value that is not translated is reported; none is lost silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.core.spec import Problem
from sidecar.imports.access.closing import ACCESS, close, close_lost
from sidecar.imports.access.protection import refusal
from sidecar.imports.dapr import read_dapr
from sidecar.imports.draft import Draft, Value, plain
from sidecar.imports.envoy.bootstrap import read_envoy
from sidecar.imports.findings import Findings, TranslationError
from sidecar.imports.gateway_api import read_gateway_api
from sidecar.imports.istio.routes import read_istio
from sidecar.imports.nginx.servers import read_nginx
from sidecar.imports.traefik.routers import read_traefik
from sidecar.imports.writer import write_policy

KINDS: Final[dict[str, Callable[[Draft, str], None]]] = {
    "envoy": read_envoy,
    "nginx": read_nginx,
    "istio": read_istio,
    "dapr": read_dapr,
    "traefik": read_traefik,
    "gateway-api": read_gateway_api,
}
"""Reader of each kind of configuration."""
MOST_ROUNDS: Final = 20
"""Most times that refused values are taken out before the translation fails."""
WHOLE: Final = ("match", "upstream", "name", "listener", "")
"""Keys of a route without which it would take other requests."""


class Translation(NamedTuple):
    """Result of an import."""

    policy: str
    """Text of the policy file."""
    findings: list[str]
    """Values that are not translated or differ, each with its place."""


def translate(kind: str, file: str, text: str) -> Translation:
    """Return the policy file of a configuration.  Raises `TranslationError`.

    `kind` is one of `KINDS`; `file` is the name that places have.
    """
    draft = Draft(Findings(file))
    KINDS[kind](draft, text)
    if not draft.routes and not draft.upstreams and not draft.listeners:
        why = next(iter(draft.findings.lines()), f"name a file of {kind}")
        raise TranslationError(f"{file}: has nothing that `sidecar import {kind}` translates; {why}")
    if draft.refused is not None:
        for route in draft.routes:
            route.pop("authenticate", None)
            route.update(refusal(draft, *draft.refused))
    close(draft)
    if not draft.listeners:
        draft.listeners["inbound"] = {"address": Value("127.0.0.1:8080", "the file states none; write the right one")}
    for _ in range(MOST_ROUNDS):
        _drop_unused(draft)
        policy = write_policy(draft, kind)
        problems = load([Source("policies.yaml", policy.encode())], {}).problems
        if not problems:
            return Translation(policy, draft.findings.lines())
        for problem in problems:
            _take_out(draft, problem)
    raise TranslationError(
        f"{file}: gives a policy that `sidecar check` refuses: {problems[0].path}: {problems[0].message}"
    )


def _drop_unused(draft: Draft) -> None:
    """Drop identities that no route names."""
    blocks = [each["authenticate"] for each in draft.routes if "authenticate" in each]
    used = {name for block in blocks for name in block["any_of"].value}
    for name in [each for each in draft.identities if each not in used]:
        del draft.identities[name]


def _take_out(draft: Draft, problem: Problem) -> None:
    """Take the value of a problem out of a draft, and report it."""
    section, _, rest = problem.path.partition(".")
    name, _, path = rest.partition(".")
    if section == "routes":
        routes = [each for each in draft.routes if each["name"].value == name]
        for route in routes:
            key = path.partition(".")[0].partition("[")[0]
            if key in ACCESS or (path.startswith("transform") and _edits_requests(route)):
                _refuse(draft, route, problem)
            elif key in WHOLE or key not in route:
                draft.routes.remove(route)
                if any(each in route for each in ACCESS):
                    host = plain(route.get("match", {})).get("host")
                    draft.lose_guard(_line(route), f"route `{name}`", route["listener"], [host] if host else [])
                    close_lost(draft)
                _report(draft, route, f"route `{name}`", problem)
            else:
                _remove(draft, route, path, problem)
    elif section == "identities" and name in draft.identities:
        _report(draft, draft.identities.pop(name), f"identity `{name}`", problem)
        for route in draft.routes:
            if "authenticate" in route and name in route["authenticate"]["any_of"].value:
                _refuse(draft, route, problem)
    elif section in ("upstreams", "listeners"):
        block = draft.upstreams if section == "upstreams" else draft.listeners
        if name not in block:
            return
        if path.startswith(("endpoints", "discover", "address")) or not path:
            _report(draft, block[name], f"{section[:-1]} `{name}`", problem)
            del block[name]
        else:
            _remove(draft, block[name], path, problem)


def _edits_requests(route: dict[str, Any]) -> bool:
    """True if a route takes fields out of requests, or sets them, so that no client can write them."""
    headers = route.get("transform", {}).get("request", {}).get("headers", {})
    return "remove" in headers or "set" in headers


def _refuse(draft: Draft, route: dict[str, Any], problem: Problem) -> None:
    """Let a route refuse all requests in place of access rules that have a problem."""
    rules = {key: route.pop(key) for key in (*ACCESS, "transform") if key in route}
    _report(draft, rules, f"access rules of `{route['name'].value}`", problem)
    route.update(refusal(draft, _line(rules), "access rules"))


def _remove(draft: Draft, block: dict[str, Any], path: str, problem: Problem) -> None:
    """Remove the innermost known key of a path from a block."""
    keys = [each.partition("[")[0] for each in path.split(".")]
    while len(keys) > 1 and isinstance(block.get(keys[0]), dict) and keys[1] in block[keys[0]]:
        block = block[keys.pop(0)]
    removed = block.pop(keys[0], None)
    if removed is not None:
        _report(draft, removed, path, problem)


def _report(draft: Draft, value: Any, what: str, problem: Problem) -> None:
    draft.findings.lose(_line(value), what, problem.message.replace("policies.yaml", "the policy"))


def _line(value: Any) -> int:
    """Return the first line that a value comes from; 1 if it is unknown."""
    if isinstance(value, Value):
        return value.line or 1
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return min((line for each in inner if (line := _line(each)) > 1), default=1)
