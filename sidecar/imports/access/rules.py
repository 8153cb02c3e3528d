"""Access rules of other proxies, as `authenticate` and `authorize` of a route.

Rules are trees of conditions on a request.  `Access` collects those of one route.

1. A condition that is not known here never holds, and neither does its opposite: nobody passes because of it.
2. Rules of several places add up.  A request must meet all of them.
3. A route has one `authenticate`.  Where the original asks two kinds of identities for one request, the route refuses.
4. What cannot be written as a policy refuses, and is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from itertools import product
from typing import Any, Final

from sidecar.expression import MAX_LENGTH
from sidecar.imports import edits
from sidecar.imports.access.protection import refusal
from sidecar.imports.draft import Draft, Value

MOST_RULES: Final = 100
"""Most rules of one route."""
MOST_NETWORKS: Final = 1000
"""Most networks of one rule."""
EVERYWHERE: Final = ("0.0.0.0/0", "::/0")
Network = IPv4Network | IPv6Network


class Tree:
    """Condition on a request."""


@dataclass(frozen=True)
class Condition(Tree):
    """Condition as `when` has it, which is true or false for every request."""

    text: str
    line: int


@dataclass(frozen=True)
class Networks(Tree):
    """Condition that the client's address is in one of some networks."""

    networks: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Outside(Tree):
    """Condition that the client's address is in none of some networks."""

    networks: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Unknown(Tree):
    """Condition without an equal here."""


@dataclass(frozen=True)
class Not(Tree):
    """Opposite of a condition."""

    part: Tree


@dataclass(frozen=True)
class Every(Tree):
    """All of some conditions; without any, every request."""

    parts: tuple[Tree, ...] = ()


@dataclass(frozen=True)
class Some(Tree):
    """At least one of some conditions; without any, no request."""

    parts: tuple[Tree, ...] = ()


ALWAYS: Final = Every()
NEVER: Final = Some()
UNKNOWN: Final = Unknown()


class TooManyRulesError(Exception):
    """Raised for conditions that need more than `MOST_RULES` rules, or longer ones than policies have."""


@dataclass(frozen=True)
class Forward:
    """Facts about a caller that the upstream gets."""

    claims: tuple[tuple[str, str, int], ...] = ()
    """Claim, field and line."""
    drops_token: Value | None = None
    """`drop` with its place, if the token does not go on."""
    dropped_fields: tuple[tuple[str, int], ...] = ()
    """Field and line of each fact that the upstream would believe, and that only the other proxy writes."""
    dropped_parameters: tuple[tuple[str, int], ...] = ()
    """Query parameter and line of each token that the other proxy reads there."""


class Access:
    """Access rules of one route."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._tree: Tree = ALWAYS
        self._refused: tuple[int, str] | None = None
        self._identities: tuple[str, ...] = ()
        self._line = 0
        self._is_optional = False
        self._forward = Forward()

    def copy(self) -> Access:
        """Return the same rules, to which others can be added."""
        found = Access(self._draft)
        found.__dict__.update(self.__dict__)
        return found

    def demand(self, tree: Tree) -> None:
        """Let only requests pass that meet a condition."""
        self._tree = Every((self._tree, tree))

    def refuse(self, line: int, what: str) -> None:
        """Refuse all requests, because something that keeps some out has no equal here."""
        self._refused = self._refused or (line, what)

    def identify(self, identities: Iterable[str], line: int, *, optional: bool, forward: Forward | None = None) -> None:
        """Ask for a caller that one of some identities accepts; with `optional`, let requests without one pass."""
        names = tuple(dict.fromkeys(identities))
        if self._identities and names != self._identities:
            self.refuse(line, "a second kind of callers")
            return
        self._is_optional = optional and (self._is_optional or not self._identities)
        self._identities, self._line = names, line
        if forward is not None and forward != Forward():
            self._forward = forward

    def add(self, other: Access) -> None:
        """Add the rules of another place."""
        self.demand(other._tree)
        if other._refused is not None:
            self.refuse(*other._refused)
        if other._identities:
            self.identify(other._identities, other._line, optional=other._is_optional, forward=other._forward)

    def apply(self, keys: dict[str, Any]) -> None:
        """Write the rules to the keys of the route."""
        for field, line in self._forward.dropped_fields:
            edits.remove_headers(self._draft, keys, "request", [field], line)
        for name, line in self._forward.dropped_parameters:
            edits.remove_parameter(self._draft, keys, name, line)
        for key in ("authenticate", "authorize"):
            keys.pop(key, None)
        keys |= self._blocks()

    @property
    def is_open(self) -> bool:
        """True if every request passes."""
        return self._refused is None and not self._identities and simple(self._tree) == ALWAYS

    def _blocks(self) -> dict[str, Any]:
        """Return `authenticate` and `authorize` of the route."""
        if self._refused is not None:
            return refusal(self._draft, *self._refused)
        tree = simple(self._tree)
        keys: dict[str, Any] = {}
        if self._identities:
            keys["authenticate"] = self._authenticate()
        if tree != ALWAYS:
            line = first_line(self._tree) or self._line or 1
            try:
                rules = rules_of(self._draft, tree)
            except TooManyRulesError as error:
                self._draft.findings.lose(line, "access rules", f"{error}; all requests are refused here")
                rules = []
            if not rules:
                return refusal(self._draft, line, "access rules")
            keys["authorize"] = rules
        return keys

    def _authenticate(self) -> dict[str, Any]:
        draft = self._draft
        block: dict[str, Any] = {"any_of": draft.value(list(self._identities), self._line)}
        if self._is_optional:
            block["optional"] = draft.value(True, self._line)
        forward: dict[str, Any] = {}
        if self._forward.claims:
            forward["claims"] = {claim: draft.value(field, line) for claim, field, line in self._forward.claims}
        if self._forward.drops_token is not None:
            forward["credentials"] = self._forward.drops_token
        return block | ({"forward": forward} if forward else {})


def first_line(tree: Tree) -> int:
    """Return the first line of a condition; 0 without one."""
    if isinstance(tree, Condition | Networks | Outside):
        return tree.line
    parts = tree.parts if isinstance(tree, Every | Some) else (tree.part,) if isinstance(tree, Not) else ()
    return min((line for each in parts if (line := first_line(each))), default=0)


def simple(tree: Tree, is_opposite: bool = False) -> Tree:
    """Return a condition, or its opposite, without constants and with `!` within tests alone."""
    if isinstance(tree, Not):
        return simple(tree.part, not is_opposite)
    if isinstance(tree, Unknown):
        return NEVER
    if isinstance(tree, Condition):
        return Condition(f"!({tree.text})", tree.line) if is_opposite else tree
    if isinstance(tree, Networks):
        return Outside(tree.networks, tree.line) if is_opposite else tree
    if isinstance(tree, Outside):
        return Networks(tree.networks, tree.line) if is_opposite else tree
    assert isinstance(tree, Every | Some)
    kind: type[Every] | type[Some] = Every if isinstance(tree, Every) != is_opposite else Some
    parts: list[Tree] = []
    for each in (simple(part, is_opposite) for part in tree.parts):
        if isinstance(each, Every | Some) and not each.parts and not isinstance(each, kind):
            return each  # one that never holds among all, or one that always does among some
        parts += each.parts if isinstance(each, kind) else [each]
    found = tuple(dict.fromkeys(parts))
    return found[0] if len(found) == 1 else kind(found)


def rules_of(draft: Draft, tree: Tree) -> list[dict[str, Any]]:
    """Return the rules of a simple condition; none for one that never holds.  Raises `TooManyRulesError`."""
    parts = tree.parts if isinstance(tree, Every) else (tree,)
    rules: list[dict[str, Any]] = [
        {"deny": {"networks": _listed(draft, each.networks, each.line)}} for each in parts if isinstance(each, Outside)
    ]
    for networks, tests, line in _alternatives(Every(tuple(each for each in parts if not isinstance(each, Outside)))):
        allow: dict[str, Any] = {}
        if networks is not None:
            allow["networks"] = _listed(draft, tuple(map(str, networks)), line)
        if tests:
            text = tests[0] if len(tests) == 1 else " && ".join(_bracketed(each, " || ") for each in tests)
            if len(text) > MAX_LENGTH:
                raise TooManyRulesError(f"have a condition of {len(text)} characters, more than {MAX_LENGTH}")
            allow["when"] = draft.value(text, line)
        rules.append({"allow": allow})
    if len(rules) > MOST_RULES:
        raise TooManyRulesError(f"need more than {MOST_RULES} rules")
    return rules if any("allow" in each for each in rules) else []


def _listed(draft: Draft, networks: tuple[str, ...], line: int) -> Value:
    if len(networks) > MOST_NETWORKS:
        raise TooManyRulesError(f"have more than {MOST_NETWORKS} networks in one rule")
    found = [ip_network(each, strict=False) for each in networks]
    spelt = [str(each.network_address) if each.num_addresses == 1 else str(each) for each in found]
    return draft.value(spelt, line)


Alternative = tuple[tuple[Network, ...] | None, tuple[str, ...], int]
"""Networks of which one must have the client, or None; tests that must all hold; and the line."""


def _alternatives(tree: Tree) -> list[Alternative]:
    """Return the alternatives of a simple condition, each as one rule.  Raises `TooManyRulesError`."""
    if isinstance(tree, Networks):
        return [(_networks(tree.networks), (), tree.line)]
    if isinstance(tree, Outside):
        return [(_complement(_networks(tree.networks)), (), tree.line)]
    if isinstance(tree, Condition):
        return [(None, (tree.text,), tree.line)]
    assert isinstance(tree, Every | Some)
    if isinstance(tree, Some):
        found = [each for part in tree.parts for each in _alternatives(part)]
    else:
        plain = [each for each in tree.parts if not _has_networks(each)]
        groups = [_alternatives(each) for each in tree.parts if _has_networks(each)]
        if not groups and len(plain) == 1:
            groups.append(_alternatives(plain[0]))
        else:
            groups.append([(None, tuple(map(_text, plain)), first_line(Every(tuple(plain))))])
        found = []
        for chosen in product(*groups):
            sets = [networks for networks, _, _ in chosen if networks is not None]
            common = sets[0] if sets else None
            for other in sets[1:]:
                common = _common(common or (), other)
            if common != ():
                lines = [line for _, _, line in chosen if line]
                found.append((common, tuple(each for _, tests, _ in chosen for each in tests), min(lines, default=0)))
            if len(found) > MOST_RULES:
                break
    if len(found) > MOST_RULES:
        raise TooManyRulesError(f"need more than {MOST_RULES} rules")
    return found


def _has_networks(tree: Tree) -> bool:
    return isinstance(tree, Networks | Outside) or (
        isinstance(tree, Every | Some) and any(map(_has_networks, tree.parts))
    )


def _text(tree: Tree) -> str:
    """Return a simple condition without networks as text."""
    if isinstance(tree, Condition):
        return tree.text
    assert isinstance(tree, Every | Some)
    if isinstance(tree, Every):
        return " && ".join(_bracketed(_text(each), " || ") for each in tree.parts)
    return " || ".join(_bracketed(_text(each), " && ") for each in tree.parts)


def _bracketed(text: str, operator: str) -> str:
    """Return a condition in brackets if it has an operator."""
    return f"({text})" if operator in text else text


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks, without those that lie in others."""
    found = [ip_network(each, strict=False) for each in texts]
    four = collapse_addresses(each for each in found if isinstance(each, IPv4Network))
    six = collapse_addresses(each for each in found if isinstance(each, IPv6Network))
    return (*four, *six)


def _common(one: Iterable[Network], other: tuple[Network, ...]) -> tuple[Network, ...]:
    """Return what two sets of networks have in common."""
    found: list[str] = []
    for left, right in product(one, other):
        if left.version == right.version:
            inner, outer = (left, right) if left.prefixlen >= right.prefixlen else (right, left)
            if inner.subnet_of(outer):  # type: ignore[arg-type]
                found.append(str(inner))
    return _networks(found)


def _complement(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Return the networks of all other addresses."""
    left: list[Network] = [ip_network(each) for each in EVERYWHERE]
    for network in networks:
        kept: list[Network] = []
        for each in left:
            if each.version != network.version:
                kept.append(each)
            elif network.subnet_of(each):  # type: ignore[arg-type]
                kept += each.address_exclude(network)  # type: ignore[arg-type]
            elif not each.subnet_of(network):  # type: ignore[arg-type]
                kept.append(each)
        left = kept
        if len(left) > MOST_NETWORKS:
            raise TooManyRulesError(f"have more than {MOST_NETWORKS} networks in one rule")
    return _networks(map(str, left))


def is_network(text: str) -> bool:
    """True for an address or a network."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
