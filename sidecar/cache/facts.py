"""What an answer's fields say to a cache, found in its lines without taking them apart."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from sidecar.cache.dates import parse_date
from sidecar.cache.directives import FOREVER, NOTHING, Directives, parse, parse_targeted
from sidecar.cache.etag import is_tag
from sidecar.cache.lines import lowered, values
from sidecar.cache.vary import Names, names_of

UNSTORABLE: Final = frozenset(
    (b"age", b"content-length", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization")
)
"""`Age` is made anew, the length is that of the body, those of the proxy are not stored (RFC 9111 3.1)."""
READ: Final = UNSTORABLE | frozenset(
    (
        b"cache-control", b"date", b"etag", b"last-modified", b"vary", b"expires", b"set-cookie", b"pragma",
        b"cache-tag", b"surrogate-key",
    )
)  # fmt: skip
AGE: Final = re.compile(rb"[ \t]*+(\d++)[ \t]*+(?=,|\Z)")

DAY: Final = 86400.0
MEMORABLE: Final = 1024
"""Bytes: only shorter fields are remembered read, so that the memory of them is bounded."""
MEMORY: Final = 256
"""Answers' fields that are remembered read."""

Targets = tuple[bytes, ...]
"""Fields that speak to us instead of Cache-Control, in order of precedence (RFC 9213 2.2)."""


@lru_cache(maxsize=64)
def _pattern(targets: Targets) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(name) for name in sorted({*READ, *targets}))
    return re.compile(rb"\n(" + names + rb"):[ \t]*+([^\r]*+)")


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
    targets: Targets = ()
    day = 0.0
    """For which they hold, seconds since 1970."""
    last_status = 0
    last_asked: Any = None
    last_rules: Any = None
    plan: Any = None
    refusal = b""
    """What it was judged by last, and how (`sidecar.cache.freshness.assess`)."""

    def __init__(self, lines: bytes, targets: Targets, now: float) -> None:
        """`lines` as they came; `now` in seconds since 1970."""
        control: list[bytes] | None = None
        vary: list[bytes] | None = None
        targeted = False
        lower = lowered(lines)
        for name, value in _pattern(targets).findall(lower):
            value = value.rstrip(b" \t")
            if name == b"cache-control":
                control = [*(control or ()), value]
            elif name == b"date":
                self.date = parse_date(value, now)
            elif name == b"etag":  # letter case matters
                at = lower.rindex(b"\netag:") + 5  # in `lines`, which `lower` is one byte ahead of
                tag = lines[at : lines.index(b"\r", at)].strip(b" \t")
                self.etag = tag if is_tag(tag) else None
            elif name == b"last-modified":
                self.last_modified = parse_date(value, now)
            elif name == b"vary":
                vary = [*(vary or ()), value]
            elif name == b"expires":
                self.expires = [*(self.expires or ()), value]
            elif name == b"set-cookie":
                self.set_cookie = True
            elif name == b"pragma":
                self.pragma = self.pragma or b"no-cache" in value
            elif name == b"cache-tag":
                self.tags = [*(self.tags or ()), *value.split(b",")]
            elif name == b"surrogate-key":
                self.tags = [*(self.tags or ()), *value.split()]
            elif name in UNSTORABLE:
                self.has_unstorable = True
                if name == b"age" and self.age is None:  # RFC 9111 5.1: the first of several
                    self.age = parse_age(value)
            else:
                targeted = True
        if control is not None:
            self.control = parse(control)
        if vary is not None:
            self.vary = names_of(vary)
        if targeted:
            self._heed(lines, lower, targets)

    def _heed(self, lines: bytes, lower: bytes, targets: Targets) -> None:
        """The first targeted field that is valid stands for Cache-Control and Expires (RFC 9213 2.2)."""
        for target in targets:
            directives = parse_targeted(values(lines, lower, target))
            if directives is not None:
                self.control, self.expires = directives, None
                return


def read_facts(lines: bytes, targets: Targets, now: float) -> Facts:
    """What the lines say.  Within a second an origin says the same in many answers, so that is remembered."""
    facts = _latest.facts if lines == _latest.lines else _known.get(lines)  # to compare is a tenth of to hash
    if facts is not None and facts.day <= now < facts.day + DAY and facts.targets == targets:
        _latest.lines, _latest.facts = lines, facts
        return facts
    day = now // DAY * DAY  # `now` decides on a century only: its day is enough
    facts = Facts(lines, targets, day)
    if len(lines) <= MEMORABLE:
        facts.targets, facts.day = targets, day
        if len(_known) >= MEMORY:
            _known.clear()
        _known[lines] = facts
    return facts


class _Latest:
    """What was read last."""

    __slots__ = ("facts", "lines")

    def __init__(self) -> None:
        self.lines = b""
        self.facts: Facts | None = None


_known: Final[dict[bytes, Facts]] = {}
_latest: Final = _Latest()


def parse_age(value: bytes) -> float:
    """Seconds; 0 if the field has to be ignored (RFC 9111 5.1).  Of a list the first member counts."""
    match = AGE.match(value)
    if match is None:
        return 0.0
    return float(min(FOREVER, int(match[1]))) if len(match[1]) < 11 else float(FOREVER)
