"""What a condition can speak of, and how each fact is read.

A fact that is not there is `ERROR`, CEL's error value: see the package's rules for what becomes of it.

Facts are read so that nobody can dress a request up to look like another one:

- `request.path` is in the canonical form of RFC 3986 6.2.2 (`/%61dmin` is `/admin`), still percent-encoded otherwise.
- A field's lines are joined with `, ` (RFC 9110 5.3).  Bytes that are not UTF-8 are read as Latin-1.
- A query parameter that comes more than once is an error: who reads which of them is not ours to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.exchange import Exchange
from sidecar.core.message import Message
from sidecar.core.outcome import Outcome
from sidecar.core.uri import MAX_BYTES, canonical, parameter

BOOL, INT, DOUBLE, STRING, NULL, LIST, MAP, DYN = "bool", "int", "double", "string", "null", "list", "map", "dyn"


class Error:
    """The value of what has none."""

    def __repr__(self) -> str:
        return "error"


ERROR: Final = Error()


class Json(Protocol):
    """A JSON body (`sidecar.transform.jsonbody.Document`)."""

    def at(self, steps: tuple[str | int, ...]) -> Any:
        """The plain value at these steps.  Raises `LookupError` where there is none."""


class Bodies(NamedTuple):
    """The JSON bodies that are known; None where there is none or it is not JSON."""

    request: Json | None = None
    response: Json | None = None


NO_BODIES: Final = Bodies()
Read = Callable[[Exchange, Outcome | None, Bodies], Any]


class Scope(NamedTuple):
    """Which facts are known where a condition stands."""

    facts: frozenset[str]
    """Of `request`, `request.body`, `response` and `response.body`."""
    why: str
    """Completes the sentence "... is not known here: "."""


REQUEST: Final = Scope(frozenset(("request",)), "only the request's head is")
RESPONSE: Final = Scope(frozenset(("request", "response", "response.body")), "the request's body is gone by then")
EVERYTHING: Final = Scope(frozenset(("request", "request.body", "response", "response.body")), "")
WHOLE_REQUEST: Final = Scope(frozenset(("request", "request.body")), "there is no response yet")

FIELDS: Final = {
    "request": {
        "method": STRING,
        "path": STRING,
        "host": STRING,
        "query": MAP,
        "headers": MAP,
        "body": DYN,
    },
    "response": {"status": INT, "headers": MAP, "body": DYN},
}


def text(value: bytes) -> str:
    """Bytes of a message as text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def field(message: Message, name: bytes) -> str | Error:
    """A header field's value, all its lines joined."""
    value = message.joined(name)
    return ERROR if value is None else text(value)


def query(x: Exchange, name: bytes) -> str | Error:
    """A query parameter's one value."""
    values = parameter(x.query, name)
    return text(values[0]) if len(values) == 1 else ERROR


def _path(x: Exchange, _o: Outcome | None, _b: Bodies) -> Any:
    path = x.path
    if b"%" in path:
        if len(path) > MAX_BYTES:  # no route takes it
            return ERROR
        path = canonical(path)
    return text(path)


def reader(owner: str, name: str, steps: tuple[str | int, ...]) -> Read:
    """How `owner.name`, or what `steps` lead to from there, is read."""
    match owner, name:
        case "request", "method":
            return lambda x, _o, _b: x.method.decode("latin-1")
        case "request", "path":
            return _path
        case "request", "host":
            return lambda x, _o, _b: text(x.authority).lower()
        case "response", "status":
            return lambda _x, o, _b: ERROR if o is None else o.status
        case _, "body":
            return _body(owner == "request", steps)
    key = str(steps[0]).encode()
    if name == "query":
        return lambda x, _o, _b: query(x, key)
    key = key.lower()
    if owner == "request":
        return lambda x, _o, _b: field(x, key)
    return lambda _x, o, _b: ERROR if o is None else field(o, key)


def presence(owner: str, name: str, steps: tuple[str | int, ...]) -> Read:
    """Whether it is there: `has(...)`, and `'name' in map`."""
    read = reader(owner, name, steps)
    if name == "query":
        key = str(steps[0]).encode()
        return lambda x, _o, _b: bool(parameter(x.query, key))
    return lambda x, o, b: read(x, o, b) is not ERROR


def _body(is_request: bool, steps: tuple[str | int, ...]) -> Read:
    def read(_x: Exchange, _o: Outcome | None, b: Bodies) -> Any:
        document = b.request if is_request else b.response
        if document is None:
            return ERROR
        try:
            return document.at(steps)
        except LookupError:
            return ERROR

    return read
