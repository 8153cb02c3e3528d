"""Facts that a condition can read, and the functions that read them.

An absent fact is `ERROR`, CEL's error value.  Two requests that mean the same to a service give the same facts:

1. `request.path` is canonical (RFC 3986 6.2.2: `/%61dmin` is `/admin`), and otherwise still percent-encoded.
2. The lines of a field are joined with `, ` (RFC 9110 5.3).  Bytes that are not UTF-8 are read as Latin-1.
3. A query parameter that occurs more than once is an error, since services differ in which one they read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.exchange import Exchange
from sidecar.core.message import Message
from sidecar.core.outcome import Outcome
from sidecar.core.uri import MAX_BYTES, canonical, parameter

BOOL, INT, DOUBLE, STRING, NULL, LIST, MAP, DYN = "bool", "int", "double", "string", "null", "list", "map", "dyn"


class ErrorValue:
    """CEL's error value, in place of an absent or invalid value."""

    def __repr__(self) -> str:
        return "error"


ERROR: Final = ErrorValue()


class Json(Protocol):
    """JSON body (`sidecar.transform.jsonbody.Document`)."""

    def at(self, steps: tuple[str | int, ...]) -> Any:
        """Return the plain value at these steps.  Raises `LookupError` if there is none."""


class Bodies(NamedTuple):
    """JSON bodies of request and response; None if there is none, if it was not read or is not JSON."""

    request: Json | None = None
    response: Json | None = None


NO_BODIES: Final = Bodies()
Read = Callable[[Exchange, Outcome | None, Bodies], Any]
"""Function that reads a value from a request, its outcome and their bodies."""


class Scope(NamedTuple):
    """Facts that are known at the place of a condition."""

    facts: frozenset[str]
    """Known facts, of `request`, `request.body`, `caller`, `client`, `path`, `response` and `response.body`."""
    why: str
    """Reason for unknown facts; completes the sentence "... is not known here: "."""


MATCH: Final = Scope(frozenset(("request",)), "a route is chosen by the request's head alone")
REQUEST: Final = Scope(frozenset(("request", "caller")), "only the request's head is")
RESPONSE: Final = Scope(
    frozenset(("request", "caller", "response", "response.body")), "the request's body is gone by then"
)
EVERYTHING: Final = Scope(
    frozenset(("request", "request.body", "caller", "client", "path", "response", "response.body")), ""
)
AUTHORIZE: Final = Scope(frozenset(("request", "caller", "client", "path")), "only the request's head is")
WHOLE_REQUEST: Final = Scope(frozenset(("request", "request.body", "caller")), "there is no response yet")

PATH: Final = "path"
FIELDS: Final[dict[str, dict[str, str]]] = {
    "request": {
        "method": STRING,
        "path": STRING,
        "host": STRING,
        "query": MAP,
        "headers": MAP,
        "body": DYN,
    },
    "caller": {"id": STRING, "identity": STRING, "claims": DYN},
    "client": {"address": STRING},
    PATH: {},
    "response": {"status": INT, "headers": MAP, "body": DYN},
}
"""Facts and their types.  The parts of `path` are the captures of the route, all of them strings."""


def text(value: bytes) -> str:
    """Return bytes of a message as text, read as UTF-8 if they are valid, else as Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def field(message: Message, name: bytes) -> str | ErrorValue:
    """Return a header field's value, all its lines joined; `ERROR` if it is absent."""
    value = message.joined(name)
    return ERROR if value is None else text(value)


def query(x: Exchange, name: bytes) -> str | ErrorValue:
    """Return the value of a query parameter; `ERROR` if it is absent or occurs more than once."""
    values = parameter(x.query, name)
    return text(values[0]) if len(values) == 1 else ERROR


def address(x: Exchange) -> str:
    """Return the address of the client; that of an IPv4 client in IPv6 form (RFC 4291 2.5.5.2) as IPv4."""
    plain = x.client_address.lower()
    return plain.removeprefix("::ffff:") if "." in plain else plain


def _path(x: Exchange, _o: Outcome | None, _b: Bodies) -> Any:
    """Return the canonical path."""
    path = x.path
    if b"%" in path:
        if len(path) > MAX_BYTES:  # no route matches a longer path
            return ERROR
        path = canonical(path)
    return text(path)


def reader(owner: str, name: str, steps: tuple[str | int, ...]) -> Read:
    """Return the function that reads `owner.name`, or the value to which `steps` lead from there."""
    match owner, name:
        case "request", "method":
            return lambda x, _o, _b: x.method.decode("latin-1")
        case "request", "path":
            return _path
        case "request", "host":
            return lambda x, _o, _b: text(x.authority).lower()
        case "caller", _:
            return _caller(name, steps)
        case "client", _:
            return lambda x, _o, _b: address(x) or ERROR
        case "path", _:
            return lambda x, _o, _b: x.captures.get(name, ERROR)
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
    """Return the function that reads the presence of a fact, for `has(...)` and `'name' in map`."""
    read = reader(owner, name, steps)
    if name == "query":
        key = str(steps[0]).encode()
        return lambda x, _o, _b: bool(parameter(x.query, key))
    return lambda x, o, b: read(x, o, b) is not ERROR


def _caller(name: str, steps: tuple[str | int, ...]) -> Read:
    """Return the function that reads a fact about the authenticated caller; `ERROR` for an anonymous request."""

    def read(x: Exchange, _o: Outcome | None, _b: Bodies) -> Any:
        caller = x.caller
        if caller is None:
            return ERROR
        if name != "claims":
            return caller.id if name == "id" else caller.identity
        value: Any = caller.claims
        for step in steps:
            is_there = step in value if isinstance(value, dict) else isinstance(step, int) and isinstance(value, list)
            if not is_there or (isinstance(value, list) and not 0 <= int(step) < len(value)):
                return ERROR
            value = value[step]
        return value

    return read


def _body(is_request: bool, steps: tuple[str | int, ...]) -> Read:
    """Return the function that reads a value from the JSON body of the request or of the response."""

    def read(_x: Exchange, _o: Outcome | None, b: Bodies) -> Any:
        document = b.request if is_request else b.response
        if document is None:
            return ERROR
        try:
            return document.at(steps)
        except LookupError:
            return ERROR

    return read
