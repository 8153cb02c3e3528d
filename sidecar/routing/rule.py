"""Rule: the compiled `match` of one route.

The most specific rule has the highest `rank`.  Rules are compared by these criteria, in this order:

1. Host: with a port > complete name > wildcard (more labels first) > none.
2. Path: exact > template (more literal segments first) > prefix (more segments first) > regular expression > none.
3. Methods: some > none; calls of gRPC > any request.
4. Number of headers, then number of query parameters.
5. `when`: present > absent.

A header condition is compared with the field's combined value (RFC 9110 5.3).  A query parameter must occur exactly
once.  Otherwise `tier=gold&tier=silver` would meet two exclusive conditions, and gateway and service might read
different values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, NoReturn, TypeVar

from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.core.pattern import MAX_INPUT, compile_pattern, literal_prefix
from sidecar.core.uri import parameter
from sidecar.routing.match_spec import MatchSpec

if TYPE_CHECKING:
    from sidecar.expression.condition import Condition

R = TypeVar("R")

PERCENT: Final = 0x25
"""Octet of a percent sign; the search for an octet costs far less than that for bytes."""
NONE, REGEX, PREFIX, TEMPLATE, EXACT = range(5)
"""Kinds of path conditions, the least specific first."""
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_CAPTURE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class MatchError(ValueError):
    """Error of a condition that cannot be compiled."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        """Key of the invalid condition in `match`."""


class Rule(Generic[R]):
    """Compiled `match` and the target of the requests that it matches.  Raises `MatchError`."""

    __slots__ = (
        "captures", "conditions", "headers", "host", "is_grpc", "is_open", "key", "kind", "match", "methods", "pattern",
        "query", "rank", "target", "when",
    )  # fmt: skip

    def __init__(self, match: MatchSpec, target: R) -> None:
        self.match = match
        self.target = target
        self.host = _host(match.host)
        """Condition on the host: `name`, `name:port`, or `.suffix` for a wildcard; empty without one."""
        path = _path(match)
        self.kind = path.kind
        """Kind of the path condition."""
        self.key = path.key
        """Segments of the path, without the empty one before the first slash; None for each capture."""
        self.captures = path.captures
        """Name of each capture, with the index of its segment in `path.split(b"/")`."""
        self.pattern = path.pattern
        """Regular expression for the path; None without one."""
        self.is_grpc = match.grpc is not None
        """True if only calls of gRPC match."""
        if match.grpc is not None and match.methods is not None:
            raise MatchError("methods", "stands beside `grpc`; every call of gRPC is a POST: leave it out")
        methods = ["POST"] if match.grpc is not None else match.methods
        self.methods = None if methods is None else frozenset(_method(method) for method in methods)
        self.headers = tuple((_field(name), value.encode()) for name, value in match.headers.items())
        self.query = tuple((name.encode(), value.encode()) for name, value in match.query.items())
        self.when = None if match.when is None else _condition(match.when)
        self.conditions = bool(self.headers or self.query or self.when or self.is_grpc)
        """True if there are conditions on headers or query, or a `when`, or if only calls of gRPC match."""
        self.is_open = self.methods is None and self.pattern is None and not self.conditions
        """True if there are no conditions besides host and literal path."""
        literals = len(self.key) - self.key.count(None) if self.kind in (TEMPLATE, PREFIX) else 0
        self.rank = (
            _host_rank(self.host),
            (self.kind, literals),
            (self.methods is not None, self.is_grpc),
            len(self.headers),
            len(self.query),
            self.when is not None,
        )

    @property
    def literal(self) -> bytes:
        """Literal segments joined to a path; for an exact path or a prefix, this is all of it."""
        return b"".join(b"/" + part for part in self.key if part is not None)

    def allows(self, x: Exchange) -> bool:
        """True if the request meets the conditions on headers and query, and `when`."""
        if self.is_grpc and not x.is_grpc:
            return False
        for name, wanted in self.headers:
            if x.joined(name) != wanted:
                return False
        if self.query and not all(parameter(x.query, name) == [wanted] for name, wanted in self.query):
            return False
        return self.when is None or self.when.holds(x)

    def covers(self, path: bytes) -> bool:
        """True if a canonical path meets the path condition."""
        if self.kind == EXACT:
            return path == self.literal
        if self.kind == PREFIX:
            return path == self.literal or path.startswith(self.literal + b"/")
        if self.kind == TEMPLATE:
            parts = path.split(b"/")[1:]
            pairs = zip(self.key, parts, strict=False)
            return len(parts) == len(self.key) and all(got if want is None else got == want for want, got in pairs)
        if self.pattern is not None:
            return len(path) <= MAX_INPUT and self.pattern.fullmatch(path) is not None
        return True

    def capture(self, path: bytes) -> dict[str, str]:
        """Return the decoded captures of a canonical path that the rule covers, by name."""
        if self.captures:
            segments = path.split(b"/")
            return {name: _text(segments[place]) for name, place in self.captures}
        if self.pattern is not None and self.pattern.groupindex and (found := self.pattern.fullmatch(path)):
            return {name: uri.text(got or b"") for name, got in found.groupdict().items()}
        return {}

    def can_tie(self, other: Rule[R]) -> bool:
        """True if both rules have the same rank and may match the same request."""
        if self.rank != other.rank or self.host != other.host:
            return False
        if self.methods is not None and other.methods is not None and not self.methods & other.methods:
            return False
        for mine, theirs in ((self.headers, other.headers), (self.query, other.query)):
            known = dict(mine)
            if any(known.get(name, wanted) != wanted for name, wanted in theirs):
                return False
        if self.when is not None and other.when is not None and self.when.excludes(other.when):
            return False
        if self.kind == TEMPLATE:
            same = len(self.key) == len(other.key)
            return same and all(None in pair or pair[0] == pair[1] for pair in zip(self.key, other.key, strict=True))
        if self.match.path_regex is not None and other.match.path_regex is not None:
            one, two = sorted((literal_prefix(self.match.path_regex), literal_prefix(other.match.path_regex)), key=len)
            return two.startswith(one)
        return self.key == other.key


class _Path(NamedTuple):
    """Compiled path condition; its members are those of `Rule`."""

    kind: int = NONE
    key: tuple[bytes | None, ...] = ()
    captures: tuple[tuple[str, int], ...] = ()
    pattern: re.Pattern[bytes] | None = None


def _text(segment: bytes) -> str:
    """Return a captured segment as text (`uri.text`, which costs more)."""
    return segment.decode("ascii") if segment.isascii() and PERCENT not in segment else uri.text(segment)


def _path(match: MatchSpec) -> _Path:
    given = [key for key in ("path", "path_prefix", "path_regex", "grpc") if getattr(match, key) is not None]
    if len(given) > 1:
        raise MatchError(given[1], f"stands beside `{given[0]}`; a route has one condition on its path")
    try:
        if match.grpc is not None:
            segments = match.grpc.name.encode().split(b"/")
            return _Path(PREFIX if match.grpc.method is None else EXACT, tuple(segments))
        if match.path is not None:
            return _template(match.path)
        if match.path_prefix is not None:
            if "{" in match.path_prefix:
                raise ValueError("takes no captures; write a template under `path`, or `path_regex`")
            segments = uri.literal(match.path_prefix).removesuffix(b"/").split(b"/")[1:]
            return _Path(PREFIX, tuple(segments)) if segments else _Path()  # the prefix `/` matches every path
        if match.path_regex is not None:
            return _Path(REGEX, pattern=compile_pattern(match.path_regex))
    except ValueError as error:
        raise MatchError(given[0], str(error)) from None
    return _Path()


def _template(path: str) -> _Path:
    parts = path.split("/")
    names = [found[1] if (found := _CAPTURE.fullmatch(part)) else "" for part in parts]
    for part, name in zip(parts, names, strict=True):
        if not name and ("{" in part or "}" in part):
            raise ValueError(f"has `{part}`: a capture is a whole segment, such as /orders/{{id}}")
    if len(set(filter(None, names))) < len(list(filter(None, names))):
        raise ValueError("captures the same name twice; give each capture a name of its own")
    plain = "/".join("x" if name else part for part, name in zip(parts, names, strict=True))
    segments = uri.literal(plain).split(b"/")
    captures = tuple((name, place) for place, name in enumerate(names) if name)
    key = tuple(None if name else segment for segment, name in zip(segments, names, strict=True))[1:]
    return _Path(TEMPLATE if captures else EXACT, key, captures)


def _condition(text: str) -> Condition:
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import MATCH

    return Condition(text, MATCH)


def _host(host: str | None) -> bytes:
    if host is None:
        return b""

    def refuse(message: str) -> NoReturn:
        raise MatchError("host", message)

    if "://" in host or "/" in host:
        refuse("is a host name alone, without scheme and path, such as api.example.com")
    name, port = host.lower(), ""
    if not name.endswith("]"):
        name, colon, port = name.rpartition(":") if ":" in name else (name, "", "")
        if colon and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            refuse(f"has the port `{port}`; write host:port with a port from 1 to 65535, or the host alone")
    is_wildcard = name.startswith("*.")
    bare = name.removeprefix("*.").removesuffix(".")
    if is_wildcard and port:
        refuse("is a wildcard with a port; leave the port out: a wildcard matches on every port")
    if not name.startswith("[") and not all(map(_LABEL.fullmatch, bare.split("."))):
        known = "" if bare.isascii() else "; write an international name in its ASCII form, xn--…"
        refuse(f"is not a host name; write it such as api.example.com or *.example.com{known}")
    return (f".{bare}" if is_wildcard else f"{bare}:{int(port)}" if port else bare).encode()


def _host_rank(host: bytes) -> tuple[int, int]:
    if not host:
        return (0, 0)
    if host.startswith(b"."):
        return (1, host.count(b"."))
    return (3, 0) if b":" in host.rpartition(b"]")[2] else (2, 0)


def _method(method: str) -> bytes:
    if not _TOKEN.fullmatch(method):
        raise MatchError("methods", f"has `{method}`, which is not a method; write such as [GET, HEAD]")
    if method != method.upper() and method.upper() in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        raise MatchError("methods", f"has `{method}`; case is significant (RFC 9110 9.1): write {method.upper()}")
    return method.encode()


def _field(name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise MatchError("headers", f"has `{name}`, which is not the name of a header; write such as x-tier")
    return name.lower().encode()
