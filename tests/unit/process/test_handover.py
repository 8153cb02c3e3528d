"""Tests of the hand-over: without free descriptors it fails with a reason, so that the old process goes on."""

from __future__ import annotations

import errno
import socket

import pytest

from sidecar.process.handover import start_successor
from tests.support.loop import virtual, virtual_env


@virtual
async def test_a_hand_over_without_free_descriptors_fails_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    env = virtual_env()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    reason = await start_successor({}, env, lambda _: None)
    assert reason == "cannot open a channel to a new process: Too many open files"
