"""nginx directives of locations: timeouts, retries, header fields and limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.edits import OWN as OWN_FIELD
from sidecar.imports.edits import is_own
from sidecar.imports.nginx.grammar import Directive
from sidecar.imports.nginx.scope import Scope, length
from sidecar.imports.retries import IDEMPOTENT
from sidecar.imports.units import duration, literal
from sidecar.limits.spec import ADDRESS, MOST_BURST

if TYPE_CHECKING:
    from sidecar.imports.nginx.upstream import Passed

CONDITIONS: Final[dict[str, list[Any]]] = {
    "error": ["connect_failure", "reset"], "timeout": ["timeout"], "invalid_header": ["protocol_error"],
    "http_500": [500], "http_502": [502], "http_503": [503], "http_504": [504],
    "http_403": [403], "http_404": [404], "http_429": [429],
}  # fmt: skip
"""Outcomes that each word of `proxy_next_upstream` stands for."""
VARIABLES: Final = {"$remote_addr": "{client.address}", "$request_id": "{request.id}"}
OWN: Final = frozenset({
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-server", "forwarded",
    "upgrade", "connection",
})  # fmt: skip
"""Fields that the sidecar sets by itself."""
ZONE: Final = re.compile(r"zone=([^:]+)(?::\S*)?")
RATE: Final = re.compile(r"rate=([0-9]{1,9})r/([sm])")
ADDRESSES: Final = ("$binary_remote_addr", "$remote_addr")
"""Variables with the address of the peer, or of the client behind a trusted proxy."""
STATED: Final = ("$http_x_forwarded_for", "$proxy_add_x_forwarded_for", "$http_x_real_ip")
"""Variables with what proxies say of the client's address."""
KEYS: Final = {
    **dict.fromkeys((*ADDRESSES, *STATED), ADDRESS),
    **dict.fromkeys(("$server_name", "$host", "$http_host"), "none"),
}
"""Keys of limits by the variable that nginx counts by."""


def add_timeouts(draft: Draft, scope: Scope, keys: dict[str, Any]) -> None:
    """Add the time limits of a location."""
    stated = scope.one("proxy_read_timeout")
    value = Value("60s", "nginx's default") if stated is None else draft.value(duration(length(stated)), stated.line)
    put(keys, "timeout.request", Value("off", "nginx has no limit for the whole request"))
    put(keys, "timeout.attempt", value)
    put(keys, "timeout.idle", value)
    if stated is not None:
        stated.differ("bounds the whole attempt here, and a pause there; `attempt: off` for streams")
    if (sending := scope.one("proxy_send_timeout")) is not None:
        sending.lose("`timeout.idle` bounds pauses in both directions")


def add_retries(draft: Draft, scope: Scope, keys: dict[str, Any], passed: Passed) -> None:
    """Add the attempts at other servers of a location's upstream."""
    stated, tries = scope.one("proxy_next_upstream"), scope.one("proxy_next_upstream_tries")
    if (limit := scope.one("proxy_next_upstream_timeout")) is not None:
        limit.lose("write `timeout.request`, which bounds all attempts together")
    attempts, line = passed.servers, 0
    if tries is not None and tries.word().isascii() and tries.word().isdigit() and int(tries.word()[:6]):
        attempts, line = min(attempts, int(tries.word()[:6])), tries.line
    words = stated.words if stated is not None else ["error", "timeout"]
    if attempts < 2 or "off" in words:
        return
    on: list[Any] = []
    methods = list(IDEMPOTENT)
    for word in words:
        if word == "non_idempotent":
            methods += ["POST", "PATCH"]
        elif word in CONDITIONS:
            on += [each for each in CONDITIONS[word] if each not in on]
        elif stated is not None:
            stated.findings.lose(stated.line, stated.shown, f"`{word}` has no equal here")
    if not on:
        return
    comment = draft.findings.place(line) if line else "one attempt for each server, as in nginx"
    put(keys, "retry.max_attempts", Value(min(attempts, 10), comment, line))
    where = Value(on, "nginx's default") if stated is None else draft.value(on, stated.line)
    put(keys, "retry.on", where)
    put(keys, "retry.methods", Value(methods, where.comment, where.line))
    put(keys, "retry.backoff", {"base": Value("1ms", "nginx does not wait"), "max": "1ms", "jitter": "none"})


def add_headers(draft: Draft, scope: Scope, keys: dict[str, Any], passed: Passed, told: Iterable[str]) -> None:
    """Add the operations on header fields of a location; `told` are fields that a server writes that is asked."""
    host = Value(literal(passed.host), "nginx's default: the host of proxy_pass")
    is_kept = False
    for each in scope.every("proxy_set_header"):
        name, value = each.word().lower(), each.word(1)
        if name == "host":
            is_kept = value in ("$host", "$http_host", "$host:$server_port")
            if not is_kept and value != "$proxy_host":
                host = draft.value(_template(each, value) or literal(passed.host), each.line)
        elif name in OWN or name in told or is_own("request", name):
            continue
        elif not value:
            put(keys, "transform.request.headers.remove", _also(keys, "request", name, draft.value(name, each.line)))
        elif (spelt := _template(each, value)) is not None:
            fields = keys.setdefault("transform", {}).setdefault("request", {}).setdefault("headers", {})
            fields.setdefault("set", {})[name] = draft.value(spelt, each.line)
        else:  # no client may write what only the other proxy does
            put(keys, "transform.request.headers.remove", _also(keys, "request", name, draft.value(name, each.line)))
    if not is_kept:
        put(keys, "transform.request.host", host)
    for each in scope.every("proxy_hide_header"):
        name = each.word().lower()
        if is_own("response", name):
            each.lose(OWN_FIELD)
            continue
        put(keys, "transform.response.headers.remove", _also(keys, "response", name, draft.value(name, each.line)))
    for each in scope.every("add_header"):
        if is_own("response", each.word()):
            each.lose(OWN_FIELD)
        elif (spelt := _template(each, each.word(1))) is not None:
            fields = keys.setdefault("transform", {}).setdefault("response", {}).setdefault("headers", {})
            fields.setdefault("add", {})[each.word().lower()] = draft.value(spelt, each.line)
            if "always" not in each.words[2:]:
                each.differ("is added to every response here, and only to some statuses there")


def _also(keys: dict[str, Any], side: str, name: str, value: Value) -> Value:
    old = keys.get("transform", {}).get(side, {}).get("headers", {}).get("remove")
    return value._replace(value=[*(old.value if old is not None else []), name])


def _template(directive: Directive, value: str) -> str | None:
    """Return a value as a template; None for one with variables that have no equal, which is reported."""
    spelt = re.sub(r"\$\{(\w+)\}", r"$\1", value)
    if spelt in VARIABLES:
        return VARIABLES[spelt]
    field = re.fullmatch(r"\$http_(\w+)", spelt)
    if field is not None:
        return "{header." + field[1].replace("_", "-") + "}"
    if "$" in spelt:
        directive.lose("has a variable without an equal here; write a template such as {client.address}")
        return None
    return literal(spelt)


def add_limits(draft: Draft, scope: Scope, keys: dict[str, Any]) -> None:
    """Add the rate limits and the limits on connections of a location."""
    zones: dict[str, Directive] = {}
    for kind in ("limit_req_zone", "limit_conn_zone"):
        for each in scope.all(kind):
            zone = next((match[1] for word in each.words if (match := ZONE.fullmatch(word))), "")
            zones[kind + zone] = each
    limits: list[dict[str, Any]] = []
    for each in scope.every("limit_req"):
        options = dict(word.partition("=")[::2] for word in each.words)
        zone_of = zones.get("limit_req_zone" + options.get("zone", ""))
        rate = next((match for word in zone_of.words if (match := RATE.fullmatch(word))), None) if zone_of else None
        key = _key(zone_of)
        if zone_of is None or rate is None or key is None:
            each.lose("its zone is not in the file, or has a key or a rate without an equal here")
            continue
        burst = options.get("burst", "0")
        if not burst.isascii() or not burst.isdigit():
            raise each.fail(f"has the burst `{burst}`; a whole number would be right")
        many = min(int(burst[:12]), MOST_BURST)
        limit: dict[str, Any] = {
            "name": Value(_limit_name(options["zone"], [limit["name"].value for limit in limits]), ""),
            "rate": draft.value(f"{rate[1]}/{rate[2]}", zone_of.line),
        }
        is_delayed = many and "nodelay" not in options and "delay" not in options
        limit["burst"] = draft.value(0 if is_delayed else many, each.line)
        if key != "none":
            limit["key"] = draft.value(key, zone_of.line)
        if key == ADDRESS:
            limit["ipv6_prefix"] = Value(128, "nginx counts each address")
            if zone_of.words[0] not in ADDRESSES:
                each.differ("counts by the address of the client, which proxies in `trusted_proxies` state")
        elif key != "none":
            each.differ("requests without the field share one count here, and nginx does not limit them")
        if is_delayed:
            per = Fraction(1 if rate[2] == "s" else 60, max(1, int(rate[1])))
            limit["delay"] = {"max": draft.value(duration(per * many), each.line)}
        if "delay" in options:
            each.differ("delays no request here; nginx delays those beyond `delay`")
        status = scope.one("limit_req_status")
        if status is None or status.word() != "429":
            each.differ("refuses with 429 here, and with `limit_req_status` (503) there")
        limits.append(limit)
    if limits:
        keys["rate_limit"] = limits
    for each in scope.every("limit_conn"):
        zone_of = zones.get("limit_conn_zone" + each.word())
        if _key(zone_of) == "none" and each.word(1).isascii() and each.word(1).isdigit():
            put(keys, "concurrency.max", draft.value(int(each.word(1)[:9]), each.line))
        else:
            each.lose("a limit of requests in flight for each client has no equal here")


def _limit_name(zone: str, others: list[str]) -> str:
    """Return a name for the limit of a zone that no other limit of the location has."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", zone)[:50]
    name = plain if plain[:1].isalnum() else f"zone{plain}"
    return next(each for each in (name, *(f"{name}-{number}" for number in range(2, 1000))) if each not in others)


def _key(zone: Directive | None) -> str | None:
    if zone is None or not zone.words:
        return None
    field = re.fullmatch(r"\$http_(\w+)", zone.words[0])
    key = "header." + field[1].replace("_", "-") if field is not None else None
    return KEYS.get(zone.words[0], key)
