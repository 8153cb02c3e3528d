"""Bindings of methods to HTTP (`google.api.http`): REST requests as messages, and the part of an answer that is sent.

Rules (google/api/http.proto):

1. Variables of the path set fields, which win over the same fields in the body.
2. The body is the whole message (`*`), one of its fields, or nothing.  What it and the path leave over are query
   parameters, nested fields with dots; with `*` there are none.
3. A parameter has the text of its field's JSON.  It is given once, unless its field is a list.
4. Messages, maps and lists of messages are no parameters, except those whose JSON is a text.
5. A `google.api.HttpBody` is a body as it is, with its content type.

A request that does not fit is a `RequestError` that names its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.core.uri import canonical
from sidecar.grpc.descriptors import (
    DURATION,
    FIELD_MASK,
    HTTP_BODY,
    ONE_MESSAGE,
    SINGLE,
    TIMESTAMP,
    WRAPPER,
    DescriptorError,
    DescriptorSet,
    Field,
    HttpRule,
    MessageType,
    Method,
)
from sidecar.grpc.from_json import JsonError, field_from_json, from_json, parameter_from_text
from sidecar.grpc.templates import Match, Template, TemplateError, TemplateTable
from sidecar.grpc.wire import varint

WHOLE: Final = "*"
SOCKET: Final = "GET"
"""Method of the handshake of a WebSocket."""
MOST_NAMES: Final = 32
"""Most names of fields in one parameter."""
Chain = tuple[Field, ...]
"""Fields that lead to a value, the outermost first."""


class RequestError(ValueError):
    """Raised for a request that does not fit its binding; the text is a sentence for the client."""


class Binding:
    """Binding of a method, compiled."""

    __slots__ = (
        "_bound", "_oneofs", "_types", "body", "ignored", "is_raw_answer", "is_raw_request", "is_socket", "method",
        "response", "rule", "template",
    )  # fmt: skip

    def __init__(self, method: Method, rule: HttpRule, types: DescriptorSet, ignored: frozenset[str]) -> None:
        """Compile a rule; query parameters in `ignored` are skipped.  Raises `DescriptorError`."""
        self.method = method
        self.rule = rule
        self.ignored = ignored
        self._types = types
        try:
            self.template = Template(rule.path)
        except TemplateError as error:
            raise DescriptorError(f"has the template {rule.path} of {method.full_name}, which {error}") from None
        self._bound = [self._variable(variable.path) for variable in self.template.variables]
        """Fields that the variables set."""
        self._oneofs: dict[tuple[int, ...], int] = {}
        """Members of oneofs that the path sets, by the numbers that lead to the oneof."""
        for chain in self._bound:
            note_oneofs(chain, self._oneofs)
        self.body = self._field(method.input, rule.body, "body")
        """Field that the body is; None for the whole message, and for no body."""
        self.response = self._field(method.output, rule.response_body, "response_body")
        """Field that the answer is; None for the whole message."""
        self.is_raw_request = bool(rule.body) and self._is_raw(self.body, method.input)
        """True if the body is a `google.api.HttpBody`."""
        self.is_raw_answer = self._is_raw(self.response, method.output)
        """True if the answer is one."""
        self.is_socket = method.client_streaming
        """True if the requests are a stream, which needs a WebSocket."""

    def _is_raw(self, field: Field | None, whole: MessageType) -> bool:
        if field is None:
            return whole.name == HTTP_BODY
        return field.shape == ONE_MESSAGE and field.type_name == HTTP_BODY

    def _field(self, message: MessageType, name: str, key: str) -> Field | None:
        if name in ("", WHOLE):
            return None
        field = message.by_json.get(name)
        if field is None:
            raise DescriptorError(
                f"has `{key}: {name}` for {self.method.full_name}, which no field of {message.name} is"
            )
        return field

    def _variable(self, path: tuple[str, ...]) -> Chain:
        chain = chain_of(self.method.input, path)
        name = ".".join(path)
        if chain is None:
            raise DescriptorError(
                f"has the variable {name} in {self.rule.path}, which no field of {self.method.input.name} is"
            )
        if chain[-1].is_repeated or not is_text(chain[-1]) or _special(chain[-1]) == FIELD_MASK:
            raise DescriptorError(f"has the variable {name} in {self.rule.path}, which is a {chain[-1].type_text}")
        return chain

    @property
    def text(self) -> str:
        """Binding as in a proto file: `GET /v1/orders/{id}`, or `WebSocket /v1/chat` for a stream of requests."""
        if self.is_socket:
            return f"WebSocket {self.rule.path}"
        return f"{'any method' if self.rule.method == WHOLE else self.rule.method} {self.rule.path}"

    def message(self, segments: list[bytes], query: bytes | None, body: bytes, content_type: bytes) -> bytes:
        """Return the message of a request.  `segments` are those of the match.  Raises `RequestError`."""
        parts: list[bytes] = []
        if self.rule.body:
            if body or self.is_raw_request:
                parts.append(self._from_body(body, content_type))
        elif body:
            raise RequestError(f"The request has a body, which {self.text} does not take.")
        self._add_parameters(parts, segments, query)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def parameters(self, segments: list[bytes], query: bytes | None) -> bytes:
        """Return the fields of the path and the query, to be added to a message.  Raises `RequestError`."""
        parts: list[bytes] = []
        self._add_parameters(parts, segments, query)
        return b"".join(parts)

    def piece(self, body: bytes) -> bytes:
        """Return one message of a stream of requests, without its parameters.  Raises `RequestError`."""
        return self._from_body(body, b"")

    def _add_parameters(self, parts: list[bytes], segments: list[bytes], query: bytes | None) -> None:
        if query:
            parts.append(self._from_query(query))
        if self._bound:
            values = self.template.captures(segments)
            for variable, chain, value in zip(self.template.variables, self._bound, values, strict=True):
                parts.append(self._parameter(chain, value, f"path's {variable.name}"))

    def _from_body(self, body: bytes, content_type: bytes) -> bytes:
        if self.is_raw_request:
            wire = b"".join(
                tag + varint(len(value)) + value for tag, value in ((b"\x0a", content_type), (b"\x12", body)) if value
            )
            return wire if self.body is None else nested((self.body,), wire)
        try:
            if self.body is None:
                return from_json(self.method.input, body, self._types)
            return field_from_json(self.body, body, self._types)
        except JsonError as error:
            place = f"body's {error.place}" if error.place else "body"
            raise RequestError(f"The {place} {error.reason}.") from None

    def _from_query(self, query: bytes) -> bytes:
        parts: list[bytes] = []
        seen: set[tuple[int, ...]] = set()
        oneofs = dict(self._oneofs)
        for pair in query.split(b"&"):
            if not pair:
                continue
            key, _, value = pair.partition(b"=")
            if b"%" in pair or b"+" in pair:
                key, value = unquote_to_bytes(key.replace(b"+", b" ")), unquote_to_bytes(value.replace(b"+", b" "))
            name = key.decode("utf-8", "replace")
            if name in self.ignored:
                continue
            place = f"query parameter {name[:200]}"
            chain = chain_of(self.method.input, tuple(name.split(".")))
            if chain is None or self.rule.body == WHOLE:
                raise RequestError(f"The {place} is not a field that {self.text} takes from the query.")
            if chain[0] is self.body:
                raise RequestError(f"The {place} is a field of the body.")
            if chain in self._bound:
                raise RequestError(f"The {place} is a field that the path has.")
            numbers = tuple([field.number for field in chain])
            if numbers in seen and not chain[-1].is_repeated:
                raise RequestError(f"The {place} is given twice.")
            seen.add(numbers)
            if (oneof := note_oneofs(chain, oneofs)) is not None:
                raise RequestError(f"The {place} is a second member of a oneof, beside {oneof}.")
            parts.append(self._parameter(chain, value, place))
        return b"".join(parts)

    def _parameter(self, chain: Chain, value: bytes, place: str) -> bytes:
        try:
            text = str(value, "utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"The {place} is not UTF-8.") from None
        try:
            wire = parameter_from_text(chain[-1], text)
        except JsonError as error:
            raise RequestError(f"The {place} {error.reason}.") from None
        return nested(chain[:-1], wire)

    def __repr__(self) -> str:
        return f"<Binding {self.method.full_name} {self.text}>"


def chain_of(message: MessageType, names: tuple[str, ...]) -> Chain | None:
    """Return the fields that a path of names leads through; None if there is no such path."""
    if len(names) > MOST_NAMES:
        return None
    found: list[Field] = []
    inner: MessageType | None = message
    for name in names:
        field = None if inner is None or inner.special else inner.by_json.get(name)
        if field is None:
            return None
        found.append(field)
        inner = field.message if field.shape == ONE_MESSAGE else None
    return tuple(found)


def nested(chain: Iterable[Field], wire: bytes) -> bytes:
    """Return the wire format of a message within the messages that a chain leads through."""
    for field in reversed(tuple(chain)):
        wire = field.tag + wire + field.closing if field.closing else field.tag + varint(len(wire)) + wire
    return wire


def is_text(field: Field) -> bool:
    """True if a value of the field can be a parameter."""
    if field.message is None:
        return True
    return not field.message.is_map_entry and _special(field) in (TIMESTAMP, DURATION, FIELD_MASK, WRAPPER)


def _special(field: Field) -> int:
    return SINGLE if field.message is None else field.message.special


def note_oneofs(chain: Chain, members: dict[tuple[int, ...], int]) -> str | None:
    """Note which members of oneofs a chain sets.  Return the name of another that is set already; None without one."""
    numbers: tuple[int, ...] = ()
    above: MessageType | None = None
    for field in chain:
        if field.oneof >= 0:
            key = (*numbers, -1 - field.oneof)
            other = members.setdefault(key, field.number)
            if other != field.number:
                known = None if above is None else above.by_number(other)
                return f"the field {other}" if known is None else known.json_name
        numbers = (*numbers, field.number)
        above = field.message
    return None


class Bindings:
    """Bindings of services: those of all methods that a route serves."""

    __slots__ = ("all", "sockets", "table", "unbound")

    def __init__(
        self,
        types: DescriptorSet,
        services: Iterable[str],
        ignored: frozenset[str] = frozenset(),
        has_sockets: bool = False,
    ) -> None:
        """Compile the rules of the services; with `has_sockets`, streams have WebSockets.  Raises `DescriptorError`."""
        self.table: TemplateTable[Binding] = TemplateTable()
        self.sockets: TemplateTable[Binding] | None = TemplateTable() if has_sockets else None
        """Bindings of streams, for a GET that asks for a WebSocket; None without them."""
        self.all: list[Binding] = []
        """Bindings in the order of the descriptors."""
        self.unbound: list[Method] = []
        """Methods without a binding."""
        for name in services:
            service = types.services.get(name)
            if service is None:
                known = ", ".join(sorted(types.services)[:20]) or "none"
                raise DescriptorError(f"has no service {name}; its services are {known}")
            for method in service.methods:
                if not method.rules:
                    self.unbound.append(method)
                for rule in method.rules:
                    self._add(Binding(method, rule, types, ignored))

    def match(self, method: bytes, path: bytes) -> Match[Binding]:
        """Return the binding of a request; `path` is as received."""
        return self.table.find(method.decode("latin-1"), canonical(path) if b"%" in path else path)

    def match_socket(self, path: bytes) -> Match[Binding]:
        """Return the binding of a handshake; `path` is as received."""
        if self.sockets is None:
            return Match(None, [], set())
        return self.sockets.find(SOCKET, canonical(path) if b"%" in path else path)

    def _add(self, binding: Binding) -> None:
        method, sockets = binding.method, self.sockets
        if binding.is_socket and sockets is None:
            raise DescriptorError(
                f"binds {method.full_name} to {binding.rule.path}, but its requests are a stream, which only "
                "`streams: websocket` has a form for"
            )
        if not binding.is_socket:
            self._refuse_twins(binding, self.table.add(binding.rule.method, binding.template, binding))
        if sockets is not None and (method.client_streaming or method.server_streaming):
            self._refuse_twins(binding, sockets.add(SOCKET, binding.template, binding))
        self.all.append(binding)

    def _refuse_twins(self, binding: Binding, other: Binding | None) -> None:
        """Raise `DescriptorError` if there is another binding for the same requests."""
        method = binding.method
        if other is not None:
            raise DescriptorError(
                f"binds both {other.method.full_name} and {method.full_name} to {binding.text}; change one of the two"
                if other.method is not method
                else f"binds {method.full_name} twice to {binding.text}; remove one of the two"
            )
