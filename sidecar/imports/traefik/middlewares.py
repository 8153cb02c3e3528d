"""Traefik's middlewares, as policies of a route."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

from sidecar.imports import edits
from sidecar.imports.access.protection import REFUSED, keeps_out
from sidecar.imports.access.rules import Access, Condition, Networks, Some, is_network
from sidecar.imports.access.servers import ask
from sidecar.imports.conditions import quoted
from sidecar.imports.draft import Draft, Value, merged, put
from sidecar.imports.fields import DURATION, Field, copy, in_range
from sidecar.imports.findings import NO_EQUAL
from sidecar.imports.retries import ALL_METHODS, IDEMPOTENT, bounded
from sidecar.imports.source import Part
from sidecar.imports.units import duration, rate, seconds, share
from sidecar.limits.spec import MOST_BURST

MOST_DEPTH: Final = 10
"""Deepest nesting of chains."""
ANSWERS: Final = ("redirectScheme", "redirectRegex")
"""Middlewares that answer in place of the service."""
LOST: Final = {
    "compress": "responses are not compressed here",
    "errors": "write a `fallback` with a response",
    "buffering": "write `limits.max_body` for the longest body",
    "grpcWeb": "write `grpc_web: true` at the listener",
}
SECURITY: Final = (
    ("frameDeny", "x-frame-options", "DENY"), ("contentTypeNosniff", "x-content-type-options", "nosniff"),
    ("browserXssFilter", "x-xss-protection", "1; mode=block"),
)  # fmt: skip
"""Switches for a field with a fixed value."""
FIELDS: Final = (
    ("customFrameOptionsValue", "x-frame-options"), ("customBrowserXSSValue", "x-xss-protection"),
    ("contentSecurityPolicy", "content-security-policy"), ("referrerPolicy", "referrer-policy"),
    ("contentSecurityPolicyReportOnly", "content-security-policy-report-only"),
    ("permissionsPolicy", "permissions-policy"), ("featurePolicy", "feature-policy"),
)  # fmt: skip
"""Values of fields of responses."""
CORS: Final = (
    ("accessControlAllowOriginList", "origins"), ("accessControlAllowMethods", "methods"),
    ("accessControlAllowHeaders", "headers"), ("accessControlExposeHeaders", "expose"),
)  # fmt: skip
BREAKER: Final = (
    Field("fallbackDuration", "circuit_breaker.open_for", DURATION),
    Field("fallbackDuration", "circuit_breaker.max_open_for", DURATION),
    Field("recoveryDuration", "circuit_breaker.half_open.ramp", DURATION),
    Field("checkPeriod", "", note="the breaker counts each call as it ends"),
    Field("responseCode", "", note="an open breaker answers with 503; `transform.response.status` changes it"),
)
TERM: Final = re.compile(
    r"\s*\(?\s*(?:(NetworkErrorRatio)\(\s*\)|ResponseCodeRatio\(\s*([0-9]+)\s*,\s*([0-9]+)\s*,\s*([0-9]+)\s*,\s*([0-9]+)\s*\)"
    r"|(LatencyAtQuantileMS)\(\s*([0-9.]+)\s*\))\s*>=?\s*([0-9.]{1,12})\s*\)?\s*"
)


def read_middleware(
    draft: Draft,
    part: Part,
    chained: Callable[[Part, Access, int], dict[str, Any] | None],
    access: Access,
    depth: int,
) -> dict[str, Any] | None:
    """Return the policies of a middleware; None if it answers in place of the service.

    Access rules are added to `access`.  `chained` returns the policies of a middleware by its name.
    """
    keys: dict[str, Any] = {}
    for kind, config in part.members():
        if kind in READERS:
            READERS[kind](draft, config, keys)
        elif kind in RULES:
            RULES[kind](draft, config, access)
        elif kind == "headers":
            _headers(draft, config, keys, access)
        elif kind == "chain":
            if depth > MOST_DEPTH:
                raise config.fail(f"chains more than {MOST_DEPTH} middlewares within each other; chain fewer")
            for each in config.items("middlewares"):
                found = chained(each, access, depth + 1)
                if found is None:
                    return None
                keys = joined(keys, found)
        elif kind in ANSWERS:
            config.lose("answers with a redirect there; the whole route refuses")
            return None
        elif kind == "inFlightReq":
            _in_flight(draft, config, keys)
        elif keeps_out(kind) or (kind == "plugin" and any(keeps_out(name) for name, _ in config.members())):
            config.lose(REFUSED)
            access.refuse(config.line, kind)
        else:
            config.lose(LOST.get(kind, NO_EQUAL))
    return keys


def joined(keys: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return the policies of two middlewares as one; limits of both hold."""
    found = merged(keys, others)
    if "rate_limit" in keys and "rate_limit" in others:
        found["rate_limit"] = [
            {**each, "name": Value(f"imported-{at}" if at > 1 else "imported", "")}
            for at, each in enumerate([*keys["rate_limit"], *others["rate_limit"]], 1)
        ]
    if "concurrency" in keys and "concurrency" in others:
        found["concurrency"] = min(keys["concurrency"], others["concurrency"], key=lambda each: each["max"].value)
    return found


def _retry(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    attempts = part.number("attempts") or 1
    stated = part.get("attempts")
    line = stated.line if stated is not None else part.line
    if attempts < 2:
        keys["retry"] = draft.value("off", line)
        return
    on: list[Any] = [] if part.is_true("disableRetryOnNetworkError") else ["connect_failure"]
    for each in part.items("status"):
        first, _, last = each.text().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise each.fail(f"is `{each.text()}`; a status such as 502 or 500-599 would be right")
        is_whole = last and int(first) % 100 == 0 and int(last) == int(first) + 99
        on += [f"{first[0]}xx"] if is_whole else range(int(first), min(int(last or first), int(first) + 99) + 1)
    if not on:
        part.lose("has no condition")
        return
    is_unsent = on == ["connect_failure"]
    is_all = part.is_true("retryNonIdempotentMethod") or is_unsent
    keys["retry"] = {
        "max_attempts": draft.value(bounded(stated, attempts), line),
        "on": Value(on, "Traefik repeats what no server has got") if is_unsent else draft.value(on, line),
        "methods": Value(ALL_METHODS if is_all else IDEMPOTENT, "Traefik's"),
    }
    interval = part.get("initialInterval")
    base = in_range(interval, "s") if interval is not None else Fraction(0)
    if base and interval is not None:
        keys["retry"]["backoff"] = {
            "base": draft.value(duration(base), interval.line),
            "max": Value(duration(2 * base), "Traefik ends with twice as much"),
        }
    else:
        keys["retry"]["backoff"] = {"base": Value("1ms", "Traefik does not wait"), "max": "1ms", "jitter": "none"}


def _breaker(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    expression = part.get("expression")
    if expression is None:
        part.lose("has no expression")
        return
    failures: list[Any] = []
    rates: list[Fraction] = []
    block: dict[str, Any] = {"failure_rate": "off"}
    for term in expression.text().split("||"):
        match = TERM.fullmatch(term)
        limit = seconds(match[8], "s") if match is not None else None
        if match is None or limit is None:
            expression.lose(f"`{term.strip()}` has no equal here; the whole breaker is left out")
            return
        if match[6]:
            quantile = seconds(match[7], "s") or Fraction(0)
            block["slow_calls"] = {
                "longer_than": draft.value(duration(limit / 1000), expression.line),
                "rate": draft.value(share(max(Fraction(1, 100), 1 - quantile / 100)), expression.line),
            }
            continue
        codes = [int(each) for each in match.groups()[1:5] if each is not None]
        if codes and (codes[0] % 100 or codes[1] % 100 or codes[2] or codes[3] < 600):
            expression.lose(
                f"`{term.strip()}`: only whole hundreds of all responses have an equal; the breaker is left out"
            )
            return
        failures += (
            [f"{code // 100}xx" for code in range(codes[0], codes[1], 100)]
            if codes
            else ["connect_failure", "reset", "timeout"]
        )
        rates.append(limit)
    if rates:
        block["failure_rate"] = draft.value(share(min(Fraction(1), min(rates))), expression.line)
        block["failures"] = draft.value(failures, expression.line)
        if len(set(rates)) > 1:
            expression.differ("one rate holds for all failures together here, the lowest of them")
    block["open_for"] = block["max_open_for"] = Value("10s", "Traefik's default")
    block["half_open"] = {"ramp": Value("10s", "Traefik's default")}
    keys["circuit_breaker"] = block
    copy(draft, part, keys, BREAKER, unit="s")
    expression.differ("rates count from `min_calls` on here; there a few calls are enough")


def _limit(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    average = part.number("average")
    if not average:
        part.lose("has no `average`, and so no limit")
        return
    period = part.get("period")
    each = (in_range(period, "s") if period is not None else Fraction(1)) or Fraction(1)  # zero is its default
    stated = part.get("average")
    limit: dict[str, Any] = {
        "name": Value("imported", ""),
        "rate": draft.value(rate(Fraction(average) / each), stated.line if stated is not None else part.line),
        "burst": draft.value(min(max(0, (part.number("burst") or 1) - 1), MOST_BURST), part.line),
    }
    criterion = part.get("sourceCriterion")
    field = part.text("sourceCriterion", "requestHeaderName")
    if field.lower() in ("x-forwarded-for", "x-real-ip"):
        limit["key"] = draft.value("client.address", part.line)
        part.differ("counts by the address of the client, which proxies in `trusted_proxies` state")
    elif field and field.lower() != "host":  # Go's requests have no field Host, so that all count together
        limit["key"] = draft.value(f"header.{field.lower()}", part.line)
    elif field or part.is_true("sourceCriterion", "requestHost"):
        if criterion is not None:
            criterion.differ("all hosts of the route have one count here")
    else:
        limit["key"] = (
            Value("client.address", "Traefik's default")
            if criterion is None
            else draft.value("client.address", criterion.line)
        )
        limit["ipv6_prefix"] = Value(128, "Traefik counts each address")
    if (redis := part.get("redis")) is not None:
        redis.lose("write a store of `stores`, and name it in the limit")
    keys["rate_limit"] = [limit]


def _in_flight(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    amount, criterion = part.get("amount"), part.get("sourceCriterion")
    if amount is None:
        return
    if criterion is not None and not part.is_true("sourceCriterion", "requestHost"):
        part.lose("a limit of requests in flight for each client has no equal here")
        return
    put(keys, "concurrency.max", draft.value(amount.number(), amount.line))


def _allow(_draft: Draft, part: Part, access: Access) -> None:
    networks = [each.text() for each in part.items("sourceRange")]
    if part.get("ipStrategy") is not None or not networks or not all(map(is_network, networks)):
        part.lose(REFUSED)
        access.refuse(part.line, "ipAllowList")
        return
    access.demand(Networks(tuple(networks), part.line))


def _forward(draft: Draft, part: Part, access: Access) -> None:
    """Add a server that is asked about each request."""
    address = part.get("address")
    why = "has no address" if address is None else ""
    for key in ("forwardBody", "authResponseHeadersRegex", "headerField", "preserveRequestMethod"):
        if (each := part.get(key)) is not None and each.text().lower() not in ("false", ""):
            why = why or f"`{key}` has no equal here"
    if why or address is None:
        part.lose(f"{why}; {REFUSED}")
        access.refuse(part.line, "forwardAuth")
        return
    block: dict[str, Any] = {
        "url": draft.value(address.text(), address.line),
        "append_path": Value(False, "as Traefik asks"),
    }
    asked, told = ([each.text() for each in part.items(key)] for key in ("authRequestHeaders", "authResponseHeaders"))
    block["timeout"] = Value("30s", "Traefik's")
    if (tls := part.get("tls")) is not None:
        copy(draft, tls, block, (Field("ca", "tls.ca"), Field("cert", "tls.cert"), Field("key", "tls.key")))
        if tls.get("insecureSkipVerify") is not None and tls.is_true("insecureSkipVerify"):
            put(block, "tls.verify", draft.value(False, tls.line))
    part.differ("a request with none of `headers` gets 401 without asking; another answer than 2xx, 401 and 403, such "
                "as a redirect, becomes 503")  # fmt: skip
    ask(draft, access, block, asked, told, part.line)


def _headers(draft: Draft, part: Part, keys: dict[str, Any], access: Access) -> None:
    for source, side in (("customRequestHeaders", "request"), ("customResponseHeaders", "response")):
        for name, value in part.members(source):
            if value.text():
                edits.header(draft, keys, side, "set", name, value.text(), value.line)
            else:
                edits.remove_headers(draft, keys, side, [name], value.line)
    for key, name, text in SECURITY:
        if (found := part.get(key)) is not None and found.is_true():
            edits.header(draft, keys, "response", "set", name, text, found.line)
    for key, name in FIELDS:
        if (found := part.get(key)) is not None and found.text():
            edits.header(draft, keys, "response", "set", name, found.text(), found.line)
    _add_sts(draft, part, keys)
    for key, name in CORS:
        if words := part.items(key):
            put(keys, f"cors.{name}", draft.value([each.text() for each in words], words[0].line))
    if "cors" in keys:
        if (age := part.get("accessControlMaxAge")) is not None:
            put(keys, "cors.max_age", draft.value(f"{age.number() or 0}s", age.line))
        if (credentials := part.get("accessControlAllowCredentials")) is not None:
            put(keys, "cors.credentials", draft.value(credentials.is_true(), credentials.line))
        part.label("addVaryHeader")
    if "cors" in keys and "origins" not in keys["cors"]:
        del keys["cors"]
        part.findings.lose(part.line, part.name, "only a list of origins is translated; CORS is left out")
    hosts = part.items("allowedHosts")
    if hosts and (part.get("hostsProxyHeaders") is not None or part.is_true("allowedHostsAreRegex")):
        part.lose(REFUSED)
        access.refuse(hosts[0].line, "allowedHosts")
    elif hosts:
        tests = [Condition(f"request.host == {quoted(each.text().lower())}", each.line) for each in hosts]
        access.demand(Some(tuple(tests)))


def _add_sts(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    age = part.get("stsSeconds")
    if age is None or not age.number():
        return
    value = f"max-age={age.number()}"
    value += "; includeSubDomains" if part.is_true("stsIncludeSubdomains") else ""
    value += "; preload" if part.is_true("stsPreload") else ""
    edits.header(draft, keys, "response", "set", "strict-transport-security", value, age.line)
    if not part.is_true("forceSTSHeader"):
        age.differ("the field is set on every connection here, and on those with TLS there")


def _strip(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    for each in part.items("prefixes"):
        edits.rewrite_prefix(draft, keys, each.text(), "/", each.line)
    if (slash := part.get("forceSlash")) is not None:
        slash.take()


def _strip_regex(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    for each in part.items("regex")[1:]:
        each.lose("a route has one regular expression for its path here")
    for each in part.items("regex")[:1]:
        pattern = each.text().removeprefix("^").rstrip("/").removesuffix("$")
        edits.rewrite_pattern(draft, keys, f"^(?:{pattern})(?P<end>/.*)$", "\\g<end>", each.line)


def _add_prefix(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    edits.rewrite_prefix(draft, keys, "", part.text("prefix"), part.line)


def _replace_path(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    edits.rewrite_path(draft, keys, part.text("path"), part.line)


def _replace_regex(draft: Draft, part: Part, keys: dict[str, Any]) -> None:
    to = edits.from_dollars(part.text("replacement"))
    if note := edits.rewrite_pattern(draft, keys, part.text("regex"), to, part.line):
        part.differ(note)


READERS: Final[dict[str, Callable[[Draft, Part, dict[str, Any]], None]]] = {
    "retry": _retry, "circuitBreaker": _breaker, "rateLimit": _limit, "stripPrefix": _strip,
    "stripPrefixRegex": _strip_regex, "addPrefix": _add_prefix, "replacePath": _replace_path,
    "replacePathRegex": _replace_regex,
}  # fmt: skip
"""Reader of each kind of middleware that becomes a policy."""
RULES: Final[dict[str, Callable[[Draft, Part, Access], None]]] = {
    "ipAllowList": _allow, "ipWhiteList": _allow, "forwardAuth": _forward,
}  # fmt: skip
"""Reader of each kind of middleware that becomes an access rule."""
