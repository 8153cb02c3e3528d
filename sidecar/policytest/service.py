"""The upstreams of a test: whoever is asked gives the next answer of the script.

Each request has a connection of its own, so that the order of answers is that of tries, and a connection that is
refused is an answer too.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import urlencode

from sidecar.core.body import Body, BodyReader
from sidecar.core.env import Env
from sidecar.core.headers import get, write_http_date
from sidecar.core.http1 import body_length, parse_request
from sidecar.core.message import Headers, parse_fields
from sidecar.policytest.spec import AnswerSpec, ContentSpec
from sidecar.simulation.network import Address

MAX_HEAD: Final = 2**20
BODILESS: Final = frozenset((204, 205, 304))
PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}


class Asked(NamedTuple):
    """A request that has reached an upstream."""

    upstream: str
    method: str
    target: str
    headers: Headers
    body: bytes


def content(spec: ContentSpec) -> tuple[bytes, str]:
    """A body and its media type; empty where there is none."""
    if "json_" in spec.model_fields_set:
        return json.dumps(spec.json_, ensure_ascii=False).encode(), "application/json"
    if spec.form is not None:
        return urlencode(spec.form).encode(), "application/x-www-form-urlencoded"
    return ("" if spec.body is None else spec.body).encode(), ""


class Script:
    """The answers that are left, and what was asked."""

    def __init__(self, env: Env, names: dict[Address, str]) -> None:
        """`names`: upstreams by the addresses of their endpoints."""
        self.env = env
        self.asked: list[Asked] = []
        self.left: deque[AnswerSpec] = deque()
        self.surplus: list[str] = []
        """Upstreams that were asked when no answer was left."""
        self.astray: list[tuple[str, str]] = []
        """Upstreams that were asked for the answer of another one, and that one."""
        self._names = names

    def begin(self, answers: Iterable[AnswerSpec]) -> None:
        """A new step."""
        self.left = deque(answer for answer in answers for _ in range(answer.times))
        self.asked, self.surplus, self.astray = [], [], []

    async def accept(self, address: Address) -> asyncio.Protocol:
        """Someone connects.  Raises `OSError` where the script says so."""
        name = self._names.get(address)
        if name is None:
            raise ConnectionRefusedError(111, f"nobody listens on {address} in this test")
        answer = self.left.popleft() if self.left else None
        if answer is None:
            self.surplus.append(name)
            answer = AnswerSpec(status=599)
        if answer.upstream not in (None, name):
            self.astray.append((name, str(answer.upstream)))
        if answer.fail == "connect_timeout":
            await self.env.future()
        if answer.fail == "connect_failure":
            if answer.after:
                await self.env.sleep(answer.after)
            raise ConnectionRefusedError(111, "Connection refused")
        return ServiceConnection(self, name, answer)


class ServiceConnection(asyncio.Protocol):
    """One connection to an upstream, and its one answer."""

    def __init__(self, script: Script, upstream: str, answer: AnswerSpec) -> None:
        self._script = script
        self._upstream = upstream
        self._answer = answer
        self._buffer = b""
        self._reader: BodyReader | None = None
        self._transport: asyncio.Transport | None = None
        self._take: Callable[[bytes], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            self._take(data)
            return
        self._buffer += data
        parsed = parse_request(self._buffer, MAX_HEAD)
        if parsed is None:
            return
        method, target, version, start, end = parsed
        fields = parse_fields(self._buffer[start : end - 2])
        length = body_length(fields, version) or 0
        body = Body(None, None)
        self._reader = reader = BodyReader(body, length)

        def take(piece: bytes) -> None:
            if reader.feed(piece):
                self._reply(Asked(self._upstream, method.decode(), target.decode(), fields, body.whole()))

        self._take = take
        if length:
            take(self._buffer[end:])
        else:
            self._reply(Asked(self._upstream, method.decode(), target.decode(), fields, b""))

    def _reply(self, asked: Asked) -> None:
        self._script.asked.append(asked)
        if self._answer.after:
            self._script.env.call_later(self._answer.after, self._send, asked)
        else:
            self._send(asked)

    def _send(self, asked: Asked) -> None:
        transport, answer = self._transport, self._answer
        if transport is None or answer.fail == "timeout":
            return
        if answer.fail == "reset":
            transport.abort()
            return
        if answer.fail == "protocol_error":
            transport.write(b"this is not HTTP\r\n\r\n")
            return
        head, body = self._written(asked)
        if answer.fail == "cut":
            transport.write(head + body[: len(body) // 2])
            self._script.env.call_later(0.001, transport.abort)
            return
        transport.write(head + body)
        transport.close()

    def _written(self, asked: Asked) -> tuple[bytes, bytes]:
        answer = self._answer
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
        return head, b"" if asked.method == "HEAD" or answer.status in BODILESS else body


def value_of(headers: Headers, name: str) -> str | None:
    """A field's first value as text."""
    value = get(headers, name.lower().encode())
    return None if value is None else value.decode("utf-8", "surrogateescape")
