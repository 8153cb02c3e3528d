"""Tests of paced encoding: batches of spans yield the interpreter to requests."""

from __future__ import annotations

from typing import Any

from sidecar.telemetry.export.otlp import STEP, PacedSpans


def test_all_spans_come_with_a_pause_after_every_few() -> None:
    pauses: list[None] = []
    spans: list[Any] = list(range(3 * STEP + 1))
    batch = PacedSpans(spans, lambda: pauses.append(None), lambda: False)
    assert list(batch) == spans
    assert len(batch) == len(spans)
    assert len(pauses) == 3


def test_nobody_pauses_while_too_many_wait() -> None:
    pauses: list[None] = []
    spans: list[Any] = list(range(3 * STEP))
    assert list(PacedSpans(spans, lambda: pauses.append(None), lambda: True)) == spans
    assert not pauses
