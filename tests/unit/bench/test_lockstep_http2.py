"""Tests of the client and upstream in lockstep of HTTP/2, which talk to each other without a proxy between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import calls, lockstep_http2
from bench.lockstep_http2 import CALL, LockstepHttp2
from sidecar.http2 import frames


@pytest.fixture
def lockstep() -> Iterator[LockstepHttp2]:
    with LockstepHttp2() as lockstep:
        lockstep.connect(lockstep.upstream_port)
        yield lockstep


@pytest.mark.parametrize(("kind", "path"), [("get", "/http2/7"), (CALL, "/bench.Shop/Get")])
def test_the_upstream_counts_what_it_is_asked(lockstep: LockstepHttp2, kind: str, path: str) -> None:
    lockstep.ask(kind, path, 3)
    lockstep.ask(kind, path, 1)

    assert lockstep.requests == 4


def test_a_status_other_than_200_is_an_error(lockstep: LockstepHttp2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "OK", ((b":status", b"503"),))

    with pytest.raises(RuntimeError, match=r"a wrong answer to .*: stream 1: .*503"):
        lockstep.ask(CALL, "/bench.Shop/Get", 1)


def test_a_call_that_ends_badly_is_an_error(lockstep: LockstepHttp2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "GOOD_END", b"grpc-status: 14\r\n")

    with pytest.raises(RuntimeError, match=r"a wrong answer to .*: stream 1: .*14"):
        lockstep.ask(CALL, "/bench.Shop/Get", 1)


def test_a_call_without_its_message_is_an_error(lockstep: LockstepHttp2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "GOT", b"")

    with pytest.raises(RuntimeError, match="stream 1: broken off after 0 bytes"):
        lockstep.ask(CALL, "/bench.Shop/Get", 1)


def test_a_reset_is_an_error(lockstep: LockstepHttp2, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(self: calls.Serving, stream: int, path: bytes) -> None:
        self.out.append(frames.rst_stream(stream, 7))

    monkeypatch.setattr(lockstep_http2.Counting, "answer", reset)

    with pytest.raises(RuntimeError, match="stream 1: broken off after 0 bytes"):
        lockstep.ask(CALL, "/bench.Shop/Get", 1)
