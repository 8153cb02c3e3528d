"""Threads that pause."""

from __future__ import annotations

import time

import pytest

from sidecar.core import pace


def test_a_thread_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pace.give_way()
    assert slept == [pace.PAUSE]
