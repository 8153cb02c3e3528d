"""Facts that the fields of a response state to a cache, read line by line.

An origin repeats most of its lines, so the facts of each line are cached, as names are in `sidecar.core.message`.  In a
head with a unique entity tag or identifier, only that line is read anew.
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
from sidecar.cache.rfc.vary import FieldNames, field_names
from sidecar.core.message import SECRETS

UNSTORABLE: Final = frozenset(
    (b"age", b"content-length", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization")
)
"""Fields that are never stored: Age and Content-Length are written anew, those for a proxy are excluded (RFC 9111
3.1)."""
AGE: Final = re.compile(rb"[ \t]*+(\d++)[ \t]*+(?=,|\Z)")
"""Matches the first number of Age."""

DAY: Final = 86400.0
"""Seconds of a day."""
LINES: Final = 1024
"""Lines that one `FactsReader` caches."""
LINE: Final = 128
"""Bytes of the longest line that is cached."""
HEAD: Final = 1024
"""Bytes of the longest head that is cached as a whole."""

Targets = tuple[bytes, ...]
"""Targeted fields that replace Cache-Control for this cache, in order of precedence (RFC 9213 2.2)."""


class Facts:
    """Facts of one head.

    Dates are seconds since 1970; None stands for an absent or malformed field.  Objects are shared and must not be
    changed, except for `storable` and the last verdict.
    """

    control: Directives = NOTHING
    """Directives of Cache-Control, or of the targeted field that replaces it."""
    age: float | None = None
    """Age in seconds."""
    date: float | None = None
    etag: bytes | None = None
    last_modified: float | None = None
    expires: list[bytes] | None = None
    """Values of all Expires lines, in lower case."""
    vary: FieldNames | None = ()
    """Names in Vary; None if the response matches no later request (`*`, or too many names)."""
    tags: list[bytes] | None = None
    """Words of Cache-Tag and Surrogate-Key, in lower case."""
    set_cookie = False
    """True if the response has Set-Cookie."""
    pragma = False
    """True if Pragma says no-cache."""
    has_unstorable = False
    """True if the response has a field of `UNSTORABLE`."""
    storable: bytes | None = None
    """Lines without the fields of `UNSTORABLE`; None until they are first needed (`storing.storable`)."""
    last_status = 0
    last_asked: Any = None
    last_rules: Any = None
    plan: Any = None
    """Last verdict of `freshness.assess`; the three attributes above are its inputs."""

    def follow(self, last: Facts) -> None:
        """Reuse the last response's verdict, if everything on which it depends is the same."""
        if (
            self.control is last.control
            and last.plan is not None
            and not last.plan.is_dated
            and self.expires is None
            and last.expires is None
            and self.set_cookie == last.set_cookie
            and self.pragma == last.pragma
            and (self.vary is None) == (last.vary is None)
            and (self.last_modified is None) == (last.last_modified is None)
        ):
            self.plan, self.last_status = last.plan, last.last_status
            self.last_asked, self.last_rules = last.last_asked, last.last_rules


class LineFacts:
    """Facts of one line; the kind of the line decides which attribute is set."""

    __slots__ = ("control", "instant", "kind", "names", "value", "words")

    def __init__(self, kind: int, value: bytes = b"") -> None:
        self.kind = kind
        self.value = value
        self.control = NOTHING
        self.instant: float | None = None
        self.names: FieldNames | None = ()
        self.words: list[bytes] = []


OTHER: Final = 0
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
AGE_LINE: Final = 11
UNSTORED: Final = 12
TARGETED: Final = 13
KINDS: Final = dict.fromkeys(UNSTORABLE, UNSTORED) | {
    b"cache-control": CONTROL, b"date": DATE, b"etag": ETAG, b"last-modified": MODIFIED, b"vary": VARY,
    b"expires": EXPIRES, b"set-cookie": COOKIE, b"pragma": PRAGMA, b"cache-tag": TAGS, b"surrogate-key": KEYS,
    b"age": AGE_LINE,
}  # fmt: skip
"""Kinds of lines, by field name."""
IRRELEVANT: Final = LineFacts(OTHER)


class FactsReader:
    """Reads heads for policies with the same targeted fields."""

    __slots__ = ("_day", "_facts", "_head", "_lines", "_targets")

    def __init__(self, targets: Targets) -> None:
        """Start with nothing cached."""
        self._targets = targets
        self._lines: dict[bytes, LineFacts] = {}
        self._begin(-inf)

    def _begin(self, day: float) -> None:
        self._day = day
        """Start of the day for which the cached facts are valid, since `now` decides the century of some dates."""
        self._lines.clear()
        self._head = b""
        self._facts = Facts()
        """Facts of the head that was read last."""

    def read(self, head: bytes, now: float) -> Facts:
        """Return the facts of a head; `now` is in seconds since 1970."""
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
        controls: list[LineFacts] = []
        varies: list[LineFacts] = []
        is_targeted = False
        for text in head.split(b"\r\n"):
            line = known.get(text)
            if line is None:
                line = self._read_line(text)
            kind = line.kind
            if kind == OTHER:
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
                if kind == AGE_LINE and facts.age is None:  # RFC 9111 5.1: the first of several
                    facts.age = parse_age(line.value)
        if controls:
            facts.control = controls[0].control if len(controls) == 1 else parse([line.value for line in controls])
        if varies:
            facts.vary = varies[0].names if len(varies) == 1 else field_names([line.value for line in varies])
        if is_targeted:
            self._apply_targeted(facts, head)
        return facts

    def _read_line(self, text: bytes) -> LineFacts:
        """Read one line and cache its facts."""
        name = text[: text.find(b":")].lower()
        kind = KINDS.get(name, TARGETED if name in self._targets else OTHER)
        line = IRRELEVANT if kind == OTHER else self._facts_of(kind, text[len(name) + 1 :].strip(b" \t"))
        if len(text) <= LINE and name not in SECRETS:
            if len(self._lines) >= LINES:
                self._lines.clear()
            self._lines[text] = line
        return line

    def _facts_of(self, kind: int, value: bytes) -> LineFacts:
        if kind == ETAG:  # letter case matters
            return LineFacts(kind, value if is_tag(value) else b"")
        value = value.lower()
        line = LineFacts(kind, value)
        if kind == CONTROL:
            line.control = parse([value])
        elif kind in (DATE, MODIFIED):
            line.instant = parse_date(value, self._day)
        elif kind == VARY:
            line.names = field_names([value])
        elif kind == TAGS:
            line.words = value.split(b",")
        elif kind == KEYS:
            line.words = value.split()
        return line

    def _apply_targeted(self, facts: Facts, head: bytes) -> None:
        """Let the first valid targeted field replace Cache-Control and Expires (RFC 9213 2.2)."""
        lower = lowered(head)
        for target in self._targets:
            directives = parse_targeted(values(head, lower, target))
            if directives is not None:
                facts.control, facts.expires = directives, None
                return


@lru_cache(maxsize=64)
def reader(targets: Targets) -> FactsReader:
    """Return the reader that all policies with these targeted fields share."""
    return FactsReader(targets)


def parse_age(value: bytes) -> float:
    """Return the first number of Age in seconds; 0 if the field must be ignored (RFC 9111 5.1)."""
    match = AGE.match(value)
    if match is None:
        return 0.0
    return float(min(FOREVER, int(match[1]))) if len(match[1]) < 11 else float(FOREVER)
