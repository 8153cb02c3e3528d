"""Scripted upstreams of a test: each attempt gets the next response of the script, at whatever upstream.

A response is taken when a connection is made, because the script may refuse the connection.  Every response closes its
connection.  So each attempt makes a connection, and responses are used in the order of attempts.  Upstreams that speak
HTTP/2 are in `streams`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import urlencode

from sidecar.core.body import Body, BodyReader
from sidecar.core.env import Env
from sidecar.core.http1 import body_length, parse_request
from sidecar.core.message import Headers, get, parse_fields, write_http_date
from sidecar.policytest.messages import Messages
from sidecar.policytest.spec import ContentSpec, ResponseSpec
from sidecar.policytest.streams import ScriptedStreams
from sidecar.simulation.transport import Address

MAX_HEAD: Final = 2**20
"""Largest head of a message in bytes."""
BODILESS: Final = frozenset((204, 205, 304))
"""Statuses of responses without a body."""
UNCONNECTED: Final = frozenset(("connect_failure", "connect_timeout"))
"""Failures without a connection."""
PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}


class SeenRequest(NamedTuple):
    """Request that reached an upstream."""

    upstream: str
    method: str
    target: str
    headers: Headers
    body: bytes


def content(spec: ContentSpec) -> tuple[bytes, str]:
    """Return the body of a message and its media type, both empty without a body."""
    if "json_" in spec.model_fields_set:
        return json.dumps(spec.json_, ensure_ascii=False).encode(), "application/json"
    if spec.form is not None:
        return urlencode(spec.form).encode(), "application/x-www-form-urlencoded"
    return ("" if spec.body is None else spec.body).encode(), ""


class Script:
    """Responses of the upstreams in the current step, and the requests that used them.

    - `seen`: requests that reached an upstream.
    - `remaining`: responses that no attempt has used yet.
    - `unanswered`: upstreams of attempts for which no response was left.
    - `misdirected`: pairs of an attempt's upstream and the upstream that its response names, if they differ.
    - `unsendable`: reasons why messages of responses could not be made.
    - `messages`: translator of messages of gRPC.
    """

    def __init__(
        self, env: Env, names: dict[Address, str], http2: Collection[str] = (), messages: Messages | None = None
    ) -> None:
        """`names`: names of the upstreams by the addresses of their endpoints; `http2`: those that speak HTTP/2."""
        self.env = env
        self.messages = messages or Messages(None)
        self.unsendable: list[str] = []
        self._http2 = http2
        self._ends: list[ScriptedStreams] = []
        """Connections of HTTP/2 of the current step."""
        self.seen: list[SeenRequest] = []
        self.remaining: deque[ResponseSpec] = deque()
        self.unanswered: list[str] = []
        self.misdirected: list[tuple[str, str]] = []
        self._names = names

    def begin(self, answers: Iterable[ResponseSpec]) -> None:
        """Start a step with these responses."""
        self.remaining = deque(answer for answer in answers for _ in range(answer.times))
        for end in self._ends:
            end.leave()
        self._ends.clear()
        self.seen, self.unanswered, self.misdirected, self.unsendable = [], [], [], []

    async def accept(self, address: Address) -> asyncio.Protocol:
        """Return the upstream's end of a new connection.  Raises `OSError` if the script refuses it."""
        name = self._names.get(address)
        if name is None:
            raise ConnectionRefusedError(111, f"no upstream of this test has the address {address}")
        if name in self._http2 and not self.is_refusing:
            self._ends.append(ScriptedStreams(self, name))
            return self._ends[-1]
        answer = self.take(name)
        if answer.fail == "connect_timeout":
            await self.env.future()
        if answer.fail == "connect_failure":
            if answer.after:
                await self.env.sleep(answer.after)
            raise ConnectionRefusedError(111, "Connection refused")
        return ScriptedConnection(self, name, answer)

    @property
    def is_refusing(self) -> bool:
        """True if the next attempt gets no connection."""
        return bool(self.remaining) and self.remaining[0].fail in UNCONNECTED

    def take(self, upstream: str) -> ResponseSpec:
        """Return the response to the next attempt, which goes to that upstream."""
        answer = self.remaining.popleft() if self.remaining else None
        if answer is None:
            self.unanswered.append(upstream)
            answer = ResponseSpec(status=599)
        if answer.upstream not in (None, upstream):
            self.misdirected.append((upstream, str(answer.upstream)))
        return answer

    def note(self, upstream: str, method: str, target: str, headers: Headers, body: bytes) -> None:
        """Record a request that has reached an upstream."""
        self.seen.append(SeenRequest(upstream, method, target, headers, body))

    def written(self, answer: ResponseSpec, method: str) -> tuple[dict[str, str], bytes]:
        """Return the fields of a response and its body; both are those of a request of that method."""
        body, kind = content(answer)
        if answer.fail == "cut" and len(body) < 2:
            body = b"cut off here"
        fields = {name.lower(): value for name, value in answer.headers.items()}
        fields.setdefault("date", write_http_date(self.env.wall()).decode())
        if kind:
            fields.setdefault("content-type", kind)
        if answer.status not in BODILESS:
            fields.setdefault("content-length", str(len(body)))
        return fields, b"" if method == "HEAD" or answer.status in BODILESS else body


class ScriptedConnection(asyncio.Protocol):
    """Upstream's end of one connection, which gives one response."""

    def __init__(self, script: Script, upstream: str, answer: ResponseSpec) -> None:
        self._script = script
        self._upstream = upstream
        self._answer = answer
        self._buffer = b""
        self._read_body: Callable[[bytes], None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._read_body is not None:
            self._read_body(data)
            return
        self._buffer += data
        parsed = parse_request(self._buffer, MAX_HEAD)
        if parsed is None:
            return
        method, target, version, start, end = parsed
        fields = parse_fields(self._buffer[start : end - 2])
        length = body_length(fields, version) or 0
        body = Body(None, None)
        reader = BodyReader(body, length)

        def read_body(piece: bytes) -> None:
            if reader.feed(piece):
                self._reply(SeenRequest(self._upstream, method.decode(), target.decode(), fields, body.whole()))

        self._read_body = read_body
        if length:
            read_body(self._buffer[end:])
        else:
            self._reply(SeenRequest(self._upstream, method.decode(), target.decode(), fields, b""))

    def _reply(self, request: SeenRequest) -> None:
        """Record a request, and send the response after its time."""
        self._script.seen.append(request)
        if self._answer.after:
            self._script.env.call_later(self._answer.after, self._send, request)
        else:
            self._send(request)

    def _send(self, request: SeenRequest) -> None:
        """Send the response, or fail as the response says."""
        transport, answer = self._transport, self._answer
        if transport is None or answer.fail == "timeout":
            return
        if answer.fail == "reset":
            transport.abort()
            return
        if answer.fail == "protocol_error":
            transport.write(b"this is not HTTP\r\n\r\n")
            return
        head, body = self._written(request)
        if answer.fail == "cut":
            transport.write(head + body[: len(body) // 2])
            self._script.env.call_later(0.001, transport.abort)
            return
        transport.write(head + body)
        transport.close()

    def _written(self, request: SeenRequest) -> tuple[bytes, bytes]:
        """Return head and body of the response."""
        answer = self._answer
        fields, body = self._script.written(answer, request.method)
        fields["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, '')}\r\n{lines}\r\n".encode()
        return head, body


def value_of(headers: Headers, name: str) -> str | None:
    """Return the first value of a field as text; None without the field."""
    value = get(headers, name.lower().encode())
    return None if value is None else value.decode("utf-8", "surrogateescape")
