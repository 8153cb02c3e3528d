"""Scripted upstreams of a test: each attempt gets the next response of the script, at whatever upstream.

A response is taken when a connection is made, because the script may refuse the connection.  Every response closes its
connection.  So each attempt makes a connection, and responses are used in the order of attempts.  Over HTTP/2, each
stream takes a response, and only a refusal of the connection is taken with it (`streams`).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import urlencode

from sidecar.core.body import Body, BodyReader
from sidecar.core.env import Env
from sidecar.core.http1 import body_length, parse_request
from sidecar.core.message import Headers, parse_fields, write_http_date
from sidecar.policytest.messages import Messages
from sidecar.policytest.spec import ContentSpec, ResponseSpec
from sidecar.policytest.streams import ScriptedStreams
from sidecar.simulation.transport import Address

MAX_HEAD: Final = 2**20
"""Largest head of a message in bytes."""
BODILESS: Final = frozenset((204, 205, 304))
"""Statuses of responses without a body."""
REFUSALS: Final = ("connect_failure", "connect_timeout")
"""Failures that are those of a connection."""
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
    - `unusable`: sentences about responses that could not be sent as they are written.
    """

    def __init__(
        self,
        env: Env,
        names: dict[Address, str],
        multiplexed: frozenset[str],
        messages: Messages,
        *,
        has_parts: bool = False,
    ) -> None:
        """Take the upstreams of a test.

        - `names`: names of the upstreams by the addresses of their endpoints.
        - `multiplexed`: names of the upstreams that speak HTTP/2.
        - `messages`: messages of gRPC.
        - `has_parts`: True if a route has parts, whose attempts may be at the same time.
        """
        self.env = env
        self.seen: list[SeenRequest] = []
        self.remaining: deque[ResponseSpec] = deque()
        self.unanswered: list[str] = []
        self.misdirected: list[tuple[str, str]] = []
        self.unusable: list[str] = []
        self._names = names
        self._multiplexed = multiplexed
        self._has_parts = has_parts
        self._messages = messages

    def begin(self, answers: Iterable[ResponseSpec]) -> None:
        """Start a step with these responses."""
        self.remaining = deque(answer for answer in answers for _ in range(answer.times))
        self.seen, self.unanswered, self.misdirected, self.unusable = [], [], [], []

    async def accept(self, address: Address) -> asyncio.Protocol:
        """Return the upstream's end of a new connection.  Raises `OSError` if the script refuses it."""
        name = self._names.get(address)
        if name is None:
            raise ConnectionRefusedError(111, f"no upstream of this test has the address {address}")
        if name in self._multiplexed and not (self.remaining and self.remaining[self._place(name)].fail in REFUSALS):
            return ScriptedStreams(partial(self._take_stream, name), self.written, self.env.wall)
        answer = self._take(name)
        if answer.fail == "connect_timeout":
            await self.env.future()
        if answer.fail == "connect_failure":
            if answer.after:
                await self.env.sleep(answer.after)
            raise ConnectionRefusedError(111, "Connection refused")
        return ScriptedConnection(self, name, answer)

    def _take(self, name: str) -> ResponseSpec:
        """Return the next response, for an attempt at an upstream."""
        if not self.remaining:
            self.unanswered.append(name)
            return ResponseSpec(status=599)
        place = self._place(name)
        answer = self.remaining[place]
        del self.remaining[place]
        if answer.upstream not in (None, name):
            self.misdirected.append((name, str(answer.upstream)))
        return answer

    def _place(self, name: str) -> int:
        """Return the index of the response for an attempt at an upstream.

        It is the first one, but parts run at the same time: each gets the first that its upstream may give.
        """
        if self._has_parts:
            for place, answer in enumerate(self.remaining):
                if answer.upstream in (None, name):
                    return place
        return 0

    def _take_stream(self, name: str, method: bytes, path: bytes, headers: Headers, body: bytes) -> ResponseSpec:
        """Record a request on a stream, and return its response."""
        self.seen.append(SeenRequest(name, method.decode(), path.decode(), headers, body))
        return self._take(name)

    def written(self, answer: ResponseSpec, path: str) -> tuple[bytes, str]:
        """Return body and media type of a response to a path, over HTTP/2."""
        if not answer.is_grpc:
            return content(answer)
        values = answer.all_messages
        if not answer.has_messages and answer.grpc_status == "OK" and not self._messages.is_stream(path):
            values = ({},)  # the one message of the answer, as a service without anything to say sends it
        try:
            return self._messages.encode(path, values, of_request=False), "application/grpc"
        except ValueError as error:
            self.unusable.append(str(error))
            return b"", "application/grpc"


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
        if answer.is_grpc:
            what = f"an answer of gRPC from {self._upstream}, which speaks HTTP/1.1; write `protocol: http2` there"
            self._script.unusable.append(what)
        body, kind = content(answer)
        if answer.fail == "cut" and len(body) < 2:
            body = b"cut off here"
        fields = {name.lower(): value for name, value in answer.headers.items()}
        fields.setdefault("date", write_http_date(self._script.env.wall()).decode())
        if kind:
            fields.setdefault("content-type", kind)
        if answer.status not in BODILESS:
            fields.setdefault("content-length", str(len(body)))
        fields["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, '')}\r\n{lines}\r\n".encode()
        return head, b"" if request.method == "HEAD" or answer.status in BODILESS else body


def value_of(headers: Headers, name: str) -> str | None:
    """Return the first value of a field as text; None without the field."""
    values = values_of(headers, name)
    return values[0] if values else None


def values_of(headers: Headers, name: str) -> list[str]:
    """Return the values of all lines of a field as text."""
    wanted = name.lower().encode()
    return [value.decode("utf-8", "surrogateescape") for key, value in headers if key == wanted]
