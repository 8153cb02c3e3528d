"""Conditions of Istio's AuthorizationPolicy, as trees.

Each value is a whole text, a beginning (`abc*`), an end (`*abc`) or `*` for any text.  What is known only at another
place than that of the route lets nobody pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.imports.access.facts import NOBODY, any_claim, claim, claim_test, header_of, present, text_test
from sidecar.imports.access.rules import ALWAYS, NEVER, UNKNOWN, Condition, Every, Networks, Not, Some, Tree, is_network
from sidecar.imports.source import Part

GATEWAY, INBOUND, AHEAD = "gateway", "inbound", "ahead"
"""Places of a route: at a gateway, beside the workload, and at a proxy on the way to it."""
SPACED: Final = ("scope", "permission")
"""Claims that are texts of several words."""
REMOTE: Final = "depends on the proxies in front; name them in `trusted_proxies` of the listener, and write `networks`"
ELSEWHERE: Final = "is known beside the workload alone"
ISSUERS: Final = "no RequestAuthentication for these requests is in the file"
TWO_CALLERS: Final = "a caller is known by a token or by a certificate here, not by both"
SPIFFE: Final = "has(caller.claims['uri'])"
"""Condition of a caller with a certificate of the mesh."""
TEMPLATE: Final = re.compile(r"\{\*\*?\}")


class Place(NamedTuple):
    """Place at which a policy is asked, and what is known there."""

    kind: str
    """Kind of the place: `GATEWAY`, `INBOUND` or `AHEAD`."""
    issuers: tuple[str, ...]
    """Issuers whose tokens count."""
    is_changed: bool = False
    """True if the path, the host or fields are changed on the way to the workload."""


class Conditions:
    """Conditions of policies at one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.needs_certificate = False
        """True if a condition reads a certificate of the mesh."""
        self._readers: dict[str, Callable[[str, Part], Tree]] = {
            "principals": self._principal, "requestPrincipals": self._request_principal,
            "namespaces": self._namespace, "serviceAccounts": self._account, "ipBlocks": self._network,
            "remoteIpBlocks": lambda _, part: self._lost(part, REMOTE), "hosts": self._host,
            "ports": lambda _, part: self._lost(part, "the port of a workload has no equal here"),
            "methods": lambda value, part: pattern("request.method", "", value, part), "paths": self._path,
        }  # fmt: skip

    def rule(self, part: Part) -> Tree:
        """Return the condition of a rule; without any, every request."""
        found: list[Tree] = []
        for key, inner in (("from", "source"), ("to", "operation")):
            if items := part.items(key):
                sources = [each.get(inner) for each in items]
                found.append(Some(tuple(self._fields(each) if each is not None else ALWAYS for each in sources)))
        found += [self._when(each) for each in part.items("when")]
        return Every(tuple(found))

    def _fields(self, part: Part) -> Tree:
        found: list[Tree] = []
        for key, values in part.members():
            plain = f"{key[3].lower()}{key[4:]}" if key.startswith("not") else key
            reader = self._readers.get(plain)
            if reader is None:
                found.append(self._lost(values, f"`{key}` has no equal here"))
                continue
            one = Some(tuple(reader(each.text(), each) for each in values.items()))
            found.append(Not(one) if key.startswith("not") else one)
        return Every(tuple(found))

    def _when(self, part: Part) -> Tree:
        """Return the condition of a `when`."""
        key = part.text("key")
        reader = self._reader(key)
        found: list[Tree] = []
        for name in ("values", "notValues"):
            if items := part.items(name):
                if reader is None:
                    part.lose(f"`{key}` has no equal here; {NOBODY}")
                    return UNKNOWN
                one = Some(tuple(reader(each.text(), each) for each in items))
                found.append(one if name == "values" else Not(one))
        return Every(tuple(found)) if found else NEVER

    def _reader(self, key: str) -> Callable[[str, Part], Tree] | None:
        if key.startswith("request.headers[") and key.endswith("]"):
            return lambda value, part: self._header(key[16:-1].lower(), value, part)
        if key.startswith("request.auth.claims["):
            keys = tuple(re.findall(r"\[([^\]]+)\]", key))
            return lambda value, part: self._claim(keys, value, part)
        return {
            "source.ip": self._network, "remote.ip": self._readers["remoteIpBlocks"],
            "source.namespace": self._namespace, "source.principal": self._principal,
            "source.serviceAccount": self._account, "request.auth.principal": self._request_principal,
            "request.auth.audiences": lambda value, part: self._claim(("aud",), value, part),
            "request.auth.presenter": lambda value, part: self._claim(("azp",), value, part),
        }.get(key)  # fmt: skip

    @staticmethod
    def _lost(part: Part, why: str) -> Tree:
        part.lose(f"{why}; {NOBODY}")
        return UNKNOWN

    # ----- the request

    def _header(self, name: str, value: str, part: Part) -> Tree:
        fact, presence = header_of(name)
        if not fact or self._place.is_changed:
            return self._lost(part, f"`{name}` " + (ELSEWHERE if fact else "has no equal here"))
        return pattern(fact, presence, value, part)

    def _host(self, value: str, part: Part) -> Tree:
        if self._place.is_changed:
            return self._lost(part, f"the host {ELSEWHERE}")
        return pattern("request.host", "", value.lower(), part)

    def _path(self, value: str, part: Part) -> Tree:
        if self._place.is_changed:
            return self._lost(part, f"the path {ELSEWHERE}")
        if TEMPLATE.search(value) is None:
            return pattern("request.path", "", value, part)
        ends = TEMPLATE.findall(value)
        pieces = [re.escape(each) for each in TEMPLATE.split(value)]
        regex = pieces[0]
        for end, piece in zip(ends, pieces[1:], strict=True):
            regex += ("[^/]+" if end == "{*}" else ".*") + piece
        return text_test("request.path", "", "regex", f"^{regex}$", part)

    def _network(self, value: str, part: Part) -> Tree:
        if self._place.kind == AHEAD:
            return self._lost(part, f"the address {ELSEWHERE}")
        if not is_network(value):
            return self._lost(part, f"`{value}` is no network")
        return Networks((value,), part.line)

    # ----- tokens

    def _claim(self, keys: tuple[str, ...], value: str, part: Part) -> Tree:
        if not self._place.issuers:
            return self._lost(part, ISSUERS)
        if value == "*":
            return present(claim(*keys), part.line)
        if value.startswith("*") or value.endswith("*"):
            kind, text = kind_of(value)
            part.differ("a claim that is a list meets no beginning or end of a text here")
            return claim_test(keys, kind, text, part)
        return any_claim(keys, value, part, is_spaced=len(keys) == 1 and keys[0] in SPACED)

    def _request_principal(self, value: str, part: Part) -> Tree:
        """Return the condition on issuer and subject of a token, which Istio joins with a slash."""
        if not self._place.issuers:
            return self._lost(part, ISSUERS)
        if value == "*":
            return present(claim("iss"), part.line)
        kind, text = kind_of(value)
        found: list[Tree] = []
        for issuer in self._place.issuers:
            own = claim_test(("iss",), "exact", issuer, part)
            start = f"{issuer}/"
            if kind == "prefix" and start.startswith(text):
                found.append(own)
            elif kind in ("exact", "prefix") and text.startswith(start):
                found.append(Every((own, claim_test(("sub",), kind, text.removeprefix(start), part))))
            elif kind == "suffix":
                tests = [claim_test(("sub",), "suffix", text, part)]
                ends = [at for at in range(1, len(text) + 1) if start.endswith(text[:at])]
                tests += [claim_test(("sub",), "exact", text[at:], part) for at in ends]
                found.append(Every((own, Some(tuple(tests)))))
        if not found:
            part.differ("is a principal of none of the issuers in the file")
        return Some(tuple(found))

    # ----- certificates of the mesh

    def _mesh(self, part: Part) -> Tree | None:
        """Return the condition for callers with a certificate that cannot be known here; None if they can."""
        if self._place.kind != INBOUND:
            return self._lost(part, f"the workload of a caller {ELSEWHERE}")
        if self._place.issuers:
            return self._lost(part, TWO_CALLERS)
        self.needs_certificate = True
        return None

    def _principal(self, value: str, part: Part) -> Tree:
        if (unknown := self._mesh(part)) is not None:
            return unknown
        kind, text = kind_of(value)
        if kind == "present":
            return Condition(SPIFFE, part.line)
        return text_test("caller.id", SPIFFE, kind, text if kind == "suffix" else f"spiffe://{text}", part)

    def _namespace(self, value: str, part: Part) -> Tree:
        return self._mesh(part) or self._spiffe(f"ns/{_segment(value)}/sa/", part)

    def _account(self, value: str, part: Part) -> Tree:
        if (unknown := self._mesh(part)) is not None:
            return unknown
        namespace, _, account = value.rpartition("/")
        if not namespace:
            return self._lost(part, "the namespace of the policy is not in the value")
        return self._spiffe(f"ns/{_segment(namespace)}/sa/{_segment(account)}$", part)

    @staticmethod
    def _spiffe(pattern: str, part: Part) -> Tree:
        return text_test("caller.id", SPIFFE, "regex", f"^spiffe://[^/]+/{pattern}", part)


def _segment(value: str) -> str:
    """Return a value as a regular expression for one segment of a SPIFFE ID."""
    return "[^/]*".join(map(re.escape, value.split("*")))


def kind_of(value: str) -> tuple[str, str]:
    """Return how a value compares, and the text that it compares with."""
    if value == "*":
        return "present", ""
    if value.endswith("*"):
        return "prefix", value[:-1]
    return ("suffix", value[1:]) if value.startswith("*") else ("exact", value)


def pattern(fact: str, presence: str, value: str, part: Part) -> Tree:
    """Return the test of a text that a value stands for."""
    kind, text = kind_of(value)
    if kind == "present":
        return Condition(presence, part.line) if presence else ALWAYS
    return text_test(fact, presence, kind, text, part)
