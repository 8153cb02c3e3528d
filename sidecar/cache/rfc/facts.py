"""What an answer's fields say to a cache, read line by line.

An origin says the same lines again and again, so what became of a line is remembered (as in `sidecar.core.message`).
Of a head with an entity tag or an identifier of its own, only that line has to be read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import inf
from typing import Any, Final

from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.directives import FOREVER, NOTHING, Directives, parse, parse_targeted
from sidecar.cache.rfc.etag import is_tag
from sidecar.cache.rfc.lines import lowered, values
from sidecar.cache.rfc.vary import Names, names_of
from sidecar.core.message import SECRETS

UNSTORABLE: Final = frozenset(
    (b"age", b"content-length", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization")
)
"""`Age` is made anew, the length is that of the body, those of the proxy are not stored (RFC 9111 3.1)."""
AGE: Final = re.compile(rb"[ \t]*+(\d++)[ \t]*+(?=,|\Z)")

DAY: Final = 86400.0
LINES: Final = 1024
"""How many lines a `Reader` remembers."""
LINE: Final = 128
"""Bytes of the longest of them."""
HEAD: Final = 1024
"""Bytes of the longest head that is remembered whole."""

Targets = tuple[bytes, ...]
"""Fields that speak to us instead of Cache-Control, in order of precedence (RFC 9213 2.2)."""


class Facts:
    """Seconds since 1970 for dates; None where a field is absent or is not what it should be.  Shared, so never changed
    but for `storable` and how they were judged."""

    control: Directives = NOTHING
    """Of Cache-Control, or of the targeted field that takes its place."""
    age: float | None = None
    date: float | None = None
    etag: bytes | None = None
    last_modified: float | None = None
    expires: list[bytes] | None = None
    """All of them as they came, without letter case."""
    vary: Names | None = ()
    """None if it matches nothing."""
    tags: list[bytes] | None = None
    set_cookie = False
    pragma = False
    has_unstorable = False
    storable: bytes | None = None
    """The lines without what is never stored, once somebody has asked."""
    last_status = 0
    last_asked: Any = None
    last_rules: Any = None
    plan: Any = None
    """What it was judged by last, and how (`sidecar.cache.rfc.freshness.assess`)."""

    def follow(self, last: Facts) -> None:
        """Be judged as the last answer was, if all that this depends on is the same."""
        if (
            self.control is last.control
            and last.plan is not None
            and self.expires is None
            and last.expires is None
            and self.set_cookie == last.set_cookie
            and self.pragma == last.pragma
            and (self.vary is None) == (last.vary is None)
            and (self.last_modified is None) == (last.last_modified is None)
        ):
            self.plan, self.last_status = last.plan, last.last_status
            self.last_asked, self.last_rules = last.last_asked, last.last_rules


class Line:
    """What one line says."""

    __slots__ = ("control", "instant", "kind", "names", "value", "words")

    def __init__(self, kind: int, value: bytes = b"") -> None:
        self.kind = kind
        self.value = value
        self.control = NOTHING
        self.instant: float | None = None
        self.names: Names | None = ()
        self.words: list[bytes] = []


PASSES: Final = 0
CONTROL: Final = 1
DATE: Final = 2
ETAG: Final = 3
MODIFIED: Final = 4
VARY: Final = 5
EXPIRES: Final = 6
COOKIE: Final = 7
PRAGMA: Final = 8
TAGS: Final = 9
KEYS: Final = 10
AGED: Final = 11
UNKEPT: Final = 12
TARGETED: Final = 13
KINDS: Final = dict.fromkeys(UNSTORABLE, UNKEPT) | {
    b"cache-control": CONTROL, b"date": DATE, b"etag": ETAG, b"last-modified": MODIFIED, b"vary": VARY,
    b"expires": EXPIRES, b"set-cookie": COOKIE, b"pragma": PRAGMA, b"cache-tag": TAGS, b"surrogate-key": KEYS,
    b"age": AGED,
}  # fmt: skip
SILENT: Final = Line(PASSES)


class Reader:
    """Reads heads for policies that heed the same targeted fields."""

    __slots__ = ("_day", "_facts", "_head", "_lines", "_targets")

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._lines: dict[bytes, Line] = {}
        self._begin(-inf)

    def _begin(self, day: float) -> None:
        self._day = day
        """For which all that is remembered holds: `now` decides on the century of some dates."""
        self._lines.clear()
        self._head = b""
        self._facts = Facts()
        """Of the head that was read last."""

    def read(self, head: bytes, now: float) -> Facts:
        """What a head's lines say; `now` in seconds since 1970."""
        if not self._day <= now < self._day + DAY:
            self._begin(now // DAY * DAY)
        if head == self._head:
            return self._facts
        facts = self._read(head)
        facts.follow(self._facts)
        if len(head) <= HEAD and not facts.set_cookie:
            self._head, self._facts = head, facts
        return facts

    def _read(self, head: bytes) -> Facts:
        facts = Facts()
        known = self._lines
        controls: list[Line] = []
        varies: list[Line] = []
        is_targeted = False
        for text in head.split(b"\r\n"):
            line = known.get(text)
            if line is None:
                line = self._hear(text)
            kind = line.kind
            if kind == PASSES:
                continue
            if kind == DATE:
                facts.date = line.instant
            elif kind == CONTROL:
                controls.append(line)
            elif kind == ETAG:
                facts.etag = line.value or None
            elif kind == MODIFIED:
                facts.last_modified = line.instant
            elif kind == VARY:
                varies.append(line)
            elif kind == EXPIRES:
                facts.expires = [*(facts.expires or ()), line.value]
            elif kind == COOKIE:
                facts.set_cookie = True
            elif kind == PRAGMA:
                facts.pragma = facts.pragma or line.value.find(b"no-cache") >= 0
            elif kind in (TAGS, KEYS):
                facts.tags = [*(facts.tags or ()), *line.words]
            elif kind == TARGETED:
                is_targeted = True
            else:
                facts.has_unstorable = True
                if kind == AGED and facts.age is None:  # RFC 9111 5.1: the first of several
                    facts.age = parse_age(line.value)
        if controls:
            facts.control = controls[0].control if len(controls) == 1 else parse([line.value for line in controls])
        if varies:
            facts.vary = varies[0].names if len(varies) == 1 else names_of([line.value for line in varies])
        if is_targeted:
            self._heed(facts, head)
        return facts

    def _hear(self, text: bytes) -> Line:
        """Read one line."""
        name = text[: text.find(b":")].lower()
        kind = KINDS.get(name, TARGETED if name in self._targets else PASSES)
        line = SILENT if kind == PASSES else self._line(kind, text[len(name) + 1 :].strip(b" \t"))
        if len(text) <= LINE and name not in SECRETS:
            if len(self._lines) >= LINES:
                self._lines.clear()
            self._lines[text] = line
        return line

    def _line(self, kind: int, value: bytes) -> Line:
        if kind == ETAG:  # letter case matters
            return Line(kind, value if is_tag(value) else b"")
        value = value.lower()
        line = Line(kind, value)
        if kind == CONTROL:
            line.control = parse([value])
        elif kind in (DATE, MODIFIED):
            line.instant = parse_date(value, self._day)
        elif kind == VARY:
            line.names = names_of([value])
        elif kind == TAGS:
            line.words = value.split(b",")
        elif kind == KEYS:
            line.words = value.split()
        return line

    def _heed(self, facts: Facts, head: bytes) -> None:
        """The first targeted field that is valid stands for Cache-Control and Expires (RFC 9213 2.2)."""
        lower = lowered(head)
        for target in self._targets:
            directives = parse_targeted(values(head, lower, target))
            if directives is not None:
                facts.control, facts.expires = directives, None
                return


@lru_cache(maxsize=64)
def reader(targets: Targets) -> Reader:
    """The one that all such policies share."""
    return Reader(targets)


def parse_age(value: bytes) -> float:
    """Seconds; 0 if the field has to be ignored (RFC 9111 5.1).  Of a list the first member counts."""
    match = AGE.match(value)
    if match is None:
        return 0.0
    return float(min(FOREVER, int(match[1]))) if len(match[1]) < 11 else float(FOREVER)
