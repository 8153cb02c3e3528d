"""Results of llhttp for the same bytes (through httptools): Node.js' parser, independent and strict by default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import httptools


class Message(NamedTuple):
    """Request that llhttp has read completely."""

    method: bytes
    target: bytes
    body: bytes


@dataclass
class Reading:
    """Messages and error of llhttp for some bytes."""

    messages: list[Message] = field(default_factory=list)
    error: str = ""


class _Callbacks:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.target = b""
        self.body = b""
        self.parser: httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.reading.messages.append(Message(self.parser.get_method(), self.target, self.body))


def read(data: bytes) -> Reading:
    """Return llhttp's reading of requests."""
    reading = Reading()
    callbacks = _Callbacks(reading)
    callbacks.parser = httptools.HttpRequestParser(callbacks)
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        reading.error = f"{type(error).__name__}: {error}"
    return reading


class Response(NamedTuple):
    """Response that llhttp has read completely."""

    status: int
    body: bytes


class _ResponseCallbacks:
    def __init__(self) -> None:
        self.messages: list[Response] = []
        self.body = b""
        self.parser: httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages.append(Response(self.parser.get_status_code(), self.body))


def read_response(data: bytes) -> tuple[list[Response], str]:
    """Return llhttp's reading of responses: complete ones, and the error that ends them."""
    callbacks = _ResponseCallbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return callbacks.messages, ""
    except httptools.HttpParserError as error:
        return callbacks.messages, f"{type(error).__name__}: {error}"
    return callbacks.messages, ""
