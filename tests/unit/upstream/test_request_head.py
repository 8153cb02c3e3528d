"""Tests of an exchange as the head of an upstream request."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.upstream.request_head import request_head

NOW = 1000.0


def head(method: bytes = b"GET", path: bytes = b"/", **facts: Any) -> bytes:
    x = Exchange(method, path, None, facts.pop("lines", b""))
    x.authority = b"a"
    for name, value in facts.items():
        setattr(x, name, value)
    return request_head(x, NOW, b"endpoint:80")


def test_the_whole_of_it() -> None:
    x = head(path=b"/a", query=b"b=c", lines=b"Accept: d\r\n", forwarding=b"via: 1.1 sidecar\r\n")
    assert x == (b"GET /a?b=c HTTP/1.1\r\nhost: a\r\nAccept: d\r\nvia: 1.1 sidecar\r\nx-sidecar-attempt: 1\r\n\r\n")


def test_the_endpoints_name_stands_in_for_none() -> None:
    assert b"\r\nhost: endpoint:80\r\n" in head(authority=b"")


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({}, []),
        ({"method": b"POST"}, [b"content-length: 0"]),
        ({"method": b"PUT", "body": b"hello"}, [b"content-length: 5"]),
        ({"method": b"DELETE"}, []),
        ({"method": b"DELETE", "body": b"hello"}, [b"content-length: 5"]),
        ({"stream": Body(None, 7)}, [b"content-length: 7"]),
        ({"stream": Body(None, 0)}, [b"content-length: 0"]),
        ({"stream": Body(None)}, [b"transfer-encoding: chunked"]),
        ({"stream": Body(None, 7), "expects_continue": True}, [b"content-length: 7", b"expect: 100-continue"]),
        ({"body": b"x", "expects_continue": True}, [b"content-length: 1"]),
        ({"upgrade": b"websocket"}, [b"connection: Upgrade", b"upgrade: websocket"]),
        ({"accepts_trailers": True}, [b"connection: te", b"te: trailers"]),
    ],
)
def test_what_belongs_to_the_connection(facts: dict[str, Any], lines: list[bytes]) -> None:
    found = head(**facts).split(b"\r\n")[2:-3]
    assert found == lines


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({"deadline": NOW + 2}, [b"x-t: 2000"]),
        ({"deadline": NOW + 2, "attempt_timeout": 0.5}, [b"x-t: 500"]),
        ({"deadline": NOW + 0.0001}, [b"x-t: 1"]),
        ({"deadline": NOW - 1}, [b"x-t: 1"]),
        ({"deadline": NOW + 2, "grpc_timeout": True}, [b"x-t: 2000", b"grpc-timeout: 2000m"]),
        ({"deadline": NOW + 2, "timeout_header": b""}, []),
        ({}, []),
    ],
)
def test_the_time_that_is_left(facts: dict[str, Any], lines: list[bytes]) -> None:
    found = head(**{"timeout_header": b"x-t", **facts}).split(b"\r\n")[2:-3]
    assert found == lines


def test_the_number_of_the_try() -> None:
    assert b"x-sidecar-attempt: 5\r\n" in head(attempt=2, marked_attempt=3)
