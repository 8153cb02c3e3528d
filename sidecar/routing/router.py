"""Router: finds the most specific route that matches a request, regardless of the order of the routes.

Rules:

1. `Rule.rank` orders rules by host, path, methods, headers, query and `when`.  Two rules with the same rank that can
   match the same request are an error at load (`ties`).
2. If a rule does not match the method, headers, query or `when`, the next less specific rule is tried.
3. A path that servers read in several ways matches a rule only if every reading does (`core/uri.py`).
4. A host without a port matches every port.  A host with a port matches only that port; the request may omit the
   default port of its scheme.  Case and a trailing dot are ignored.  `*.example.com` matches any number of labels, but
   not `example.com` itself.

Each host has a table: a dict of templates for each set of positions of literal segments, and a trie of prefixes.
Exact paths, and templates that capture only the last segment, are also found by the path before the last slash.  The
cost grows with the length of the path, not with the number of routes.
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
"""Most ties of one rule that are reported at once."""
MAX_CACHED_HOSTS: Final = 1024
"""Most pairs of scheme and authority whose tables are cached."""
MAX_HOST: Final = 255 + len(":65535")
"""Longest host with its port, in octets (RFC 1035 2.3.4)."""
DOT: Final = ord(".")
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}


class _Node(Generic[R]):
    """Node in the trie of prefixes, one for each segment."""

    __slots__ = ("chain", "children", "rules")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[R]] = {}
        self.rules: list[Rule[R]] = []
        self.chain: list[Rule[R]] = []
        """Rules to try for a path that leaves the trie here: those of this prefix, of shorter prefixes, and all rules
        with a regular expression or without a condition on the path."""

    def link(self, rest: list[Rule[R]]) -> None:
        """Set the chain of this node and of those below; `rest` is the chain of the node above."""
        self.chain = self.rules + rest
        for child in self.children.values():
            child.link(self.chain)


class _Shape(Generic[R]):
    """Templates with literal segments at the same positions, by these segments."""

    __slots__ = ("captures", "literals", "may_end_empty", "pick", "rules")

    def __init__(self, key: tuple[bytes | None, ...]) -> None:
        self.literals = tuple(place for place, part in enumerate(key, 1) if part is not None)
        self.captures = tuple(place for place, part in enumerate(key, 1) if part is None)
        self.may_end_empty = key[-1] is not None
        self.pick: Callable[[Sequence[bytes]], Any] = itemgetter(*self.literals) if self.literals else lambda _: ()
        self.rules: dict[Any, list[Rule[R]]] = {}

    def is_filled(self, segments: list[bytes]) -> bool:
        """True if no capture is empty."""
        for place in self.captures:  # noqa: SIM110 - faster than all()
            if not segments[place]:
                return False
        return True


class _Stem(Generic[R]):
    """Rules with the same literal path before the last slash."""

    __slots__ = ("any_leaf", "leaves")

    def __init__(self) -> None:
        self.leaves: dict[bytes, list[Rule[R]]] = {}
        """Rules of exact paths by the last segment."""
        self.any_leaf: list[Rule[R]] | None = None
        """Templates that capture the last segment only; None without them, or if others may be more specific."""


class _Table(Generic[R]):
    """Rules of one host, indexed by their paths."""

    __slots__ = ("exact", "prefixes", "stems", "templates")

    def __init__(self, rules: Iterable[Rule[R]]) -> None:
        self.stems: dict[bytes, _Stem[R]] = {}
        """Exact paths, and templates that capture the last segment only, by the path before the last slash."""
        self.exact: dict[bytes, list[Rule[R]]] = {}
        """Rules of exact paths by the path."""
        self.templates: dict[int, list[_Shape[R]]] = {}
        """Templates by the number of segments; shapes with more literal segments come first."""
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
        """Yield the rules whose path matches, the most specific first.  Regular expressions are not yet checked."""
        if (group := self.exact.get(path)) is not None:
            yield group
        for shape in self.templates.get(len(segments), ()):
            if (group := shape.rules.get(shape.pick(segments))) is not None and shape.is_filled(segments):
                yield group
        yield self.chain(segments)

    def chain(self, segments: list[bytes]) -> list[Rule[R]]:
        """Return the rules to try if no exact path and no template has matched."""
        node = self.prefixes
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                break
            node = child
        return node.chain

    def find(self, x: Exchange, path: bytes, segments: list[bytes]) -> Rule[R] | None:
        """Return the first rule of `groups` that matches; None without one.  `path` must not contain `//`."""
        if self.exact:
            group = self.exact.get(path)
            if group is not None and (rule := first_match(group, x, path)) is not None:
                return rule
        if self.templates:
            for shape in self.templates.get(len(segments), ()):
                group = shape.rules.get(shape.pick(segments))
                if group is not None and (shape.may_end_empty or segments[-1]):
                    rule = first_match(group, x, path)
                    if rule is not None:
                        return rule
        return first_match(self.chain(segments), x, path)


def first_match(rules: list[Rule[R]], x: Exchange, path: bytes) -> Rule[R] | None:
    """Return the first rule that matches the request; None without one.

    The paths of all given rules match, except that their regular expressions are not yet checked.
    """
    for rule in rules:
        if rule.is_open or (
            (rule.methods is None or x.method in rule.methods)
            and (rule.pattern is None or rule.covers(path))
            and (not rule.conditions or rule.allows(x))
        ):
            return rule
    return None


class Router(Generic[R]):
    """Rules of one listener; `match` finds the target of a request."""

    __slots__ = ("_anywhere", "_cached", "_hosts", "_longest", "_special", "rules")

    def __init__(self, rules: Iterable[Rule[R]]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rank, reverse=True))
        """Rules of all hosts, the most specific first."""
        by_host: dict[bytes, list[Rule[R]]] = defaultdict(list)
        for rule in self.rules:
            by_host[rule.host].append(rule)
        self._hosts = {host: _Table(group) for host, group in by_host.items() if host}
        self._anywhere = (_Table(by_host[b""]),)
        self._special: tuple[Any, ...] = tuple(uri.SPECIAL)
        self._longest = MAX_INPUT
        self._cached: dict[tuple[bytes, bytes], tuple[_Table[R], ...]] = {}
        """Cached results of `_tables` by scheme and authority."""

    def match(self, x: Exchange) -> R | None:
        """Return the target of the most specific rule that matches; None without one.

        Sets `x.captured_by` and `x.captured_path` if the rule may capture parts of the path.
        """
        path = x.path
        tables = self._tables(x) if self._hosts else self._anywhere
        stem, slash, leaf = path.rpartition(b"/")
        known = tables[0].stems.get(stem)
        if known is not None and slash:
            # These rules are the most specific, and their literal segments have only one reading.
            group = known.leaves.get(leaf) if known.leaves else None
            if group is not None:
                found = first_match(group, x, path)
                if found is not None:
                    return found.target
            group = known.any_leaf
            if (
                group is not None
                and len(path) <= self._longest
                and (leaf.isalnum() or (leaf != b"" and self._has_one_reading(leaf)))
            ):
                found = group[0] if group[0].is_open else first_match(group, x, path)
                if found is not None:
                    x.captured_by = found
                    x.captured_path = path
                    return found.target
        segments = path.split(b"/")
        if (
            len(path) > self._longest
            or not self._has_one_reading(path)
            or (segments.count(b"") > 1 and path.find(b"//") >= 0)  # `in` is slow for more than one octet
        ):
            return self._match_ambiguous(x, tables)
        for table in tables:
            found = table.find(x, path, segments)
            if found is not None:
                x.captured_by = found
                x.captured_path = path
                return found.target
        return None

    def _has_one_reading(self, path: bytes) -> bool:
        """True if a path, or a segment, has only one reading.  `//` is not checked."""
        for octet in self._special:  # one search for each is faster than `translate`
            if octet in path:
                return False
        return DOT not in path or not (path.startswith(b".") or path.find(b"/.") >= 0)

    def _match_ambiguous(self, x: Exchange, tables: tuple[_Table[R], ...]) -> R | None:
        """Match a path that may have several readings, or is too long for a regular expression."""
        known = uri.readings(x.path)
        rules: set[Rule[R] | None] = set()
        for path in known:
            segments = path.split(b"/")
            groups = (group for table in tables for group in table.groups(path, segments))
            rules.add(next((rule for group in groups if (rule := first_match(group, x, path)) is not None), None))
        found = rules.pop() if len(rules) == 1 else None
        if found is None or (len(x.path) > MAX_INPUT and self._has_pattern_before(found)):
            return None
        x.captured_by = found
        x.captured_path = known[0]
        return found.target

    def _has_pattern_before(self, found: Rule[R]) -> bool:
        """True if a rule with a regular expression is more specific than `found`.

        A path that is too long for regular expressions must then not be given to `found`.
        """
        return any(rule.pattern is not None and rule.rank > found.rank for rule in self.rules)

    def allowed(self, x: Exchange) -> list[bytes]:
        """Return the methods with which an unmatched request would match, sorted, for the field `Allow`.

        The list is empty if the request matches with no method (RFC 9110 15.5.6).
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
    """Return the values of `Rule.host` that match an authority, the most specific first.

    These are the host with its port, the host alone, and its suffixes.
    """
    host, colon, port = authority.lower().rpartition(b":")
    if not colon or host.startswith(b"[") != host.endswith(b"]"):  # no colon, or a colon inside an IPv6 address
        host, port = authority.lower(), b""
    host = host.removesuffix(b".")
    port = port.lstrip(b"0") or _DEFAULT_PORTS.get(scheme, b"")
    dots = [place for place, octet in enumerate(host) if octet == ord(".")]
    suffixes = [] if host.startswith(b"[") else [host[place:] for place in dots if place]
    return suffixes if host.startswith(b".") else [host + b":" + port, host, *suffixes]


def ties(rules: Iterable[Rule[R]]) -> Iterator[tuple[Rule[R], Rule[R]]]:
    """Yield pairs of rules of one listener that have the same rank and can match the same request.

    At most `MAX_TIES` pairs are yielded for each rule, so that many equal rules do not yield a pair for every two.
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
    """Yield each rule with the others that it can tie with: those with the same segments where both are literal."""
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
