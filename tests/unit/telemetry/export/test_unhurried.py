"""Batches of spans that leave the interpreter to requests while they are encoded."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.telemetry.export import otlp as export
from sidecar.telemetry.export.otlp import STEP, Unhurried


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One member for each pause."""
    made: list[int] = []
    monkeypatch.setattr(export, "give_way", lambda: made.append(len(made)))
    return made


def test_all_spans_come_with_a_pause_after_every_few(pauses: list[int]) -> None:
    spans: list[Any] = list(range(3 * STEP + 1))
    batch = Unhurried(spans, lambda: False)
    assert list(batch) == spans
    assert len(batch) == len(spans)
    assert len(pauses) == 3


def test_nobody_pauses_while_too_many_wait(pauses: list[int]) -> None:
    spans: list[Any] = list(range(3 * STEP))
    assert list(Unhurried(spans, lambda: True)) == spans
    assert not pauses
