"""Router: finds the most specific route that matches a request, whatever the order of the routes.

Rules:

1. `Rule.rank` says how specific a rule is: by host, path, methods, headers, query, `when`.  Two rules of the same rank
   that can match one request are an error when the policies are loaded (`ties`).
2. A rule that fails on method, headers, query or `when` leaves the request to the next less specific one.
3. A path that servers read in several ways matches only what it matches under every reading (`core/uri.py`).
4. A condition on the host without a port holds on every port, one with a port on that port alone (the request may leave
   out the default port of its scheme).  Capitals and a trailing dot make no difference.  `*.example.com` covers any
   number of labels, but not `example.com` itself.

There is one table for each host.  In it templates are one dict for each set of positions of literal segments, prefixes
are a trie of segments.  Most routes are found by less: exact paths, and templates that capture the last segment alone,
stand in two dicts, by what is before the last slash and by what is after it.  The cost grows with the length of the
path, not with the number of routes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations_with_replacement, islice
from operator import itemgetter
from typing import Any, Final, Generic

from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.core.pattern import MAX_INPUT
from sidecar.routing.rule import EXACT, PREFIX, TEMPLATE, R, Rule

MAX_TIES: Final = 8
"""Ties of one rule that are told; who mends those sees the next."""
MAX_CACHED_HOSTS: Final = 1024
"""Hosts of requests whose tables are cached."""
MAX_HOST: Final = 255 + len(":65535")
"""Octets of a host (RFC 1035 2.3.4); no route has a longer one."""
DOT: Final = ord(".")
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}


class _Node(Generic[R]):
    """Segment in the trie of prefixes."""

    __slots__ = ("chain", "children", "rules")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[R]] = {}
        self.rules: list[Rule[R]] = []
        self.chain: list[Rule[R]] = []
        """Rules for a path that leaves the trie here: those of this prefix, of shorter ones, patterns, and others."""

    def link(self, rest: list[Rule[R]]) -> None:
        """Make the chain of this node and of those below."""
        self.chain = self.rules + rest
        for child in self.children.values():
            child.link(self.chain)


class _Shape(Generic[R]):
    """Templates with literal segments in the same places, by these segments."""

    __slots__ = ("captures", "literals", "may_end_empty", "pick", "rules")

    def __init__(self, key: tuple[bytes | None, ...]) -> None:
        self.literals = tuple(place for place, part in enumerate(key, 1) if part is not None)
        self.captures = tuple(place for place, part in enumerate(key, 1) if part is None)
        self.may_end_empty = key[-1] is not None
        self.pick: Callable[[Sequence[bytes]], Any] = itemgetter(*self.literals) if self.literals else lambda _: ()
        self.rules: dict[Any, list[Rule[R]]] = {}

    def is_filled(self, segments: list[bytes]) -> bool:
        """True if no capture is empty."""
        for place in self.captures:  # noqa: SIM110 - at half the cost of all()
            if not segments[place]:
                return False
        return True


class _Stem(Generic[R]):
    """Rules whose literal path is the same up to the last slash."""

    __slots__ = ("any_leaf", "leaves")

    def __init__(self) -> None:
        self.leaves: dict[bytes, list[Rule[R]]] = {}
        """Exact paths, by the last segment."""
        self.any_leaf: list[Rule[R]] | None = None
        """Templates that capture the last segment; None if there are none, or others may come before them."""


class _Table(Generic[R]):
    """Rules of one host, in the order of their rank."""

    __slots__ = ("exact", "prefixes", "stems", "templates")

    def __init__(self, rules: Iterable[Rule[R]]) -> None:
        self.stems: dict[bytes, _Stem[R]] = {}
        """Rules by the path before the last slash."""
        self.exact: dict[bytes, list[Rule[R]]] = {}
        self.templates: dict[int, list[_Shape[R]]] = {}
        """Templates by the number of segments; the shape with more literals first."""
        self.prefixes: _Node[R] = _Node()
        rest: list[Rule[R]] = []
        for rule in rules:
            if rule.kind == EXACT:
                self.exact.setdefault(rule.literal, []).append(rule)
            elif rule.kind == TEMPLATE:
                self._add_template(rule)
            elif rule.kind == PREFIX:
                self._add_prefix(rule)
            else:
                rest.append(rule)
        self.prefixes.link(rest)
        self._add_stems()

    def _add_template(self, rule: Rule[R]) -> None:
        shape = _Shape[R](rule.key)
        shapes = self.templates.setdefault(len(rule.key) + 1, [])
        for known in shapes:
            if known.literals == shape.literals:
                shape = known
                break
        else:
            shapes.append(shape)
        shape.rules.setdefault(shape.pick([b"", *(part or b"" for part in rule.key)]), []).append(rule)

    def _add_prefix(self, rule: Rule[R]) -> None:
        node = self.prefixes
        for part in (b"", *rule.key):
            node = node.children.setdefault(part or b"", _Node())
        node.rules.append(rule)

    def _add_stems(self) -> None:
        for path, group in self.exact.items():
            stem, _, leaf = path.rpartition(b"/")
            self.stems.setdefault(stem, _Stem()).leaves[leaf] = group
        for size, shapes in self.templates.items():
            if shapes[0].captures == (size - 1,):
                for group in shapes[0].rules.values():
                    stem = group[0].literal
                    self.stems.setdefault(stem, _Stem()).any_leaf = group

    def groups(self, path: bytes, segments: list[bytes]) -> Iterator[list[Rule[R]]]:
        """Yield the rules whose path matches, the most specific first; patterns are among them untried."""
        if (group := self.exact.get(path)) is not None:
            yield group
        for shape in self.templates.get(len(segments), ()):
            if (group := shape.rules.get(shape.pick(segments))) is not None and shape.is_filled(segments):
                yield group
        yield self.chain(segments)

    def chain(self, segments: list[bytes]) -> list[Rule[R]]:
        """Return the rules that are left once no exact path and no template has matched."""
        node = self.prefixes
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                break
            node = child
        return node.chain

    def find(self, x: Exchange, path: bytes, segments: list[bytes]) -> Rule[R] | None:
        """Return the first rule of `groups` that matches, for a path without `//`."""
        if self.exact:
            group = self.exact.get(path)
            if group is not None and (rule := first(group, x, path)) is not None:
                return rule
        if self.templates:
            for shape in self.templates.get(len(segments), ()):
                group = shape.rules.get(shape.pick(segments))
                if group is not None and (shape.may_end_empty or segments[-1]):
                    rule = first(group, x, path)
                    if rule is not None:
                        return rule
        return first(self.chain(segments), x, path)


def first(rules: list[Rule[R]], x: Exchange, path: bytes) -> Rule[R] | None:
    """Return the first of some rules with matching paths (patterns yet untried) that matches in everything else."""
    for rule in rules:
        if rule.is_open or (
            (rule.methods is None or x.method in rule.methods)
            and (rule.pattern is None or rule.covers(path))
            and (not rule.conditions or rule.allows(x))
        ):
            return rule
    return None


class Router(Generic[R]):
    """Rules of one listener, among which the target of a request is found."""

    __slots__ = ("_anywhere", "_cached", "_hosts", "_longest", "_special", "rules")

    def __init__(self, rules: Iterable[Rule[R]]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rank, reverse=True))
        """All rules, the most specific first."""
        by_host: dict[bytes, list[Rule[R]]] = defaultdict(list)
        for rule in self.rules:
            by_host[rule.host].append(rule)
        self._hosts = {host: _Table(group) for host, group in by_host.items() if host}
        self._anywhere = (_Table(by_host[b""]),)
        self._special: tuple[Any, ...] = tuple(uri.SPECIAL)
        self._longest = MAX_INPUT
        self._cached: dict[tuple[bytes, bytes], tuple[_Table[R], ...]] = {}
        """Tables by scheme and authority of a request."""

    def match(self, x: Exchange) -> R | None:
        """Return the target of the most specific rule that matches, None where none does; sets `x.captures`."""
        path = x.path
        tables = self._tables(x) if self._hosts else self._anywhere
        stem, slash, leaf = path.rpartition(b"/")
        known = tables[0].stems.get(stem)
        if known is not None and slash:
            # Nothing is more specific, and a rule's literal segments have one reading only.
            group = known.leaves.get(leaf) if known.leaves else None
            if group is not None:
                found = first(group, x, path)
                if found is not None:
                    return found.target
            group = known.any_leaf
            if (
                group is not None
                and len(path) <= self._longest
                and (leaf.isalnum() or (leaf != b"" and self._is_plain(leaf)))
            ):
                found = first(group, x, path)
                if found is not None:
                    x.captured_by = found
                    x.captured_path = path
                    return found.target
        segments = path.split(b"/")
        if (
            len(path) > self._longest
            or not self._is_plain(path)
            or (segments.count(b"") > 1 and path.find(b"//") >= 0)  # `in` is dear where it is not of one octet
        ):
            return self._match_odd(x, tables)
        for table in tables:
            found = table.find(x, path, segments)
            if found is not None:
                x.captured_by = found
                x.captured_path = path
                return found.target
        return None

    def _is_plain(self, path: bytes) -> bool:
        """True if all servers read a path, or its last segment, in the same way; `//` apart."""
        for octet in self._special:  # one by one, each a search in C, is cheaper than `translate`
            if octet in path:
                return False
        return DOT not in path or not (path.startswith(b".") or path.find(b"/.") >= 0)

    def _match_odd(self, x: Exchange, tables: tuple[_Table[R], ...]) -> R | None:
        """Do the work of `match` for a path that may have several readings, `//` or too many bytes for a pattern."""
        known = uri.readings(x.path)
        rules: set[Rule[R] | None] = set()
        for path in known:
            segments = path.split(b"/")
            groups = (group for table in tables for group in table.groups(path, segments))
            rules.add(next((rule for group in groups if (rule := first(group, x, path)) is not None), None))
        found = rules.pop() if len(rules) == 1 else None
        if found is None or (len(x.path) > MAX_INPUT and self._patterns_before(found)):
            return None
        x.captured_by = found
        x.captured_path = known[0]
        return found.target

    def _patterns_before(self, found: Rule[R]) -> bool:
        """True if a pattern, for which the path is too long, is more specific: then `found` must not decide."""
        return any(rule.pattern is not None and rule.rank > found.rank for rule in self.rules)

    def allowed(self, x: Exchange) -> list[bytes]:
        """Return the methods with which a request that matched nothing would match, sorted, for `Allow`.

        It is empty where no method would do (RFC 9110 15.5.6).
        """
        found: list[set[bytes]] = []
        for path in uri.readings(x.path):
            segments = path.split(b"/")
            groups = (group for table in self._tables(x) for group in table.groups(path, segments))
            rules = [rule for group in groups for rule in group if rule.covers(path) and rule.allows(x)]
            found.append({method for rule in rules for method in rule.methods or ()})
        return sorted(set.intersection(*found)) if found else []

    def _tables(self, x: Exchange) -> tuple[_Table[R], ...]:
        """Return the tables of a request's host, the most specific first."""
        if len(x.authority) > MAX_HOST:
            return self._anywhere
        key = (x.scheme, x.authority)
        tables = self._cached.get(key)
        if tables is None:
            if len(self._cached) >= MAX_CACHED_HOSTS:  # clients choose this key, so the cache is bounded
                self._cached.clear()
            names = host_names(*key)
            tables = (*(self._hosts[name] for name in names if name in self._hosts), *self._anywhere)
            self._cached[key] = tables
        return tables


def host_names(scheme: bytes, authority: bytes) -> list[bytes]:
    """Return the values of `Rule.host` that cover an authority, the most specific first: with port, whole, suffixes."""
    host, colon, port = authority.lower().rpartition(b":")
    if not colon or host.startswith(b"[") != host.endswith(b"]"):  # no colon, or one of an IPv6 address
        host, port = authority.lower(), b""
    host = host.removesuffix(b".")
    port = port.lstrip(b"0") or _DEFAULT_PORTS.get(scheme, b"")
    dots = [place for place, octet in enumerate(host) if octet == ord(".")]
    suffixes = [] if host.startswith(b"[") else [host[place:] for place in dots if place]
    return suffixes if host.startswith(b".") else [host + b":" + port, host, *suffixes]


def ties(rules: Iterable[Rule[R]]) -> Iterator[tuple[Rule[R], Rule[R]]]:
    """Yield pairs of rules of one listener that can both match a request, with neither more specific.

    Of the pairs of one rule only the first `MAX_TIES` are found: many equal rules make no more than that many each.
    """
    alike: dict[Any, list[Rule[R]]] = defaultdict(list)
    for rule in rules:
        place = len(rule.key) if rule.kind == TEMPLATE else rule.key
        alike[rule.host, rule.rank, place].append(rule)
    for group in alike.values():
        found: dict[int, int] = defaultdict(int)
        for two, others in neighbours(group):
            for one in others if found[id(two)] < MAX_TIES else ():
                if one.can_tie(two):
                    found[id(two)] += 1
                    yield one, two
                    if found[id(two)] >= MAX_TIES:
                        break


def neighbours(rules: list[Rule[R]]) -> Iterator[tuple[Rule[R], Iterable[Rule[R]]]]:
    """Yield rules, each with others that have the same segments where both have literals; no other pair can tie."""
    shapes: dict[tuple[bool, ...], list[Rule[R]]] = defaultdict(list)
    for rule in rules:
        shapes[tuple(part is not None for part in rule.key)].append(rule)
    for (here, ours), (there, theirs) in combinations_with_replacement(shapes.items(), 2):
        common = [place for place, both in enumerate(zip(here, there, strict=True)) if all(both)]
        alike: dict[Any, list[Rule[R]]] = defaultdict(list)
        for rule in ours:
            alike[tuple(rule.key[place] for place in common)].append(rule)
        if ours is theirs:
            for group in alike.values():
                yield from ((rule, islice(group, number)) for number, rule in enumerate(group))
        else:
            for rule in theirs:
                yield rule, alike.get(tuple(rule.key[place] for place in common), ())
