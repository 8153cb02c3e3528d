"""Tests of the load on two paths in turn, and of the clock by which they are compared."""

from __future__ import annotations

import os
import time

import pytest

from bench import load, machine


def test_a_process_has_a_clock_of_its_cpu_time() -> None:
    before = time.process_time()
    seen = machine.cpu_seconds(os.getpid())
    assert before <= seen <= time.process_time()


def asked_in_turn(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[float, list[str]]:
    """Return the ratio for an output of wrk, and wrk's arguments."""
    calls: list[list[str]] = []

    def run(argv: list[str], core: int, seconds: float) -> str:
        calls.append(argv)
        return text

    monkeypatch.setattr(load, "_run", run)
    return load.in_turn("http://127.0.0.1:1", ("/base", "/cached"), 32, 2.0, 1, os.getpid()), calls[0]


def test_the_second_path_is_told_as_a_multiple_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times, argv = asked_in_turn(monkeypatch, "Running 2s test\nTurns: 40 0.500000000 0.550000000\n")
    assert times == pytest.approx(1.1)
    assert argv[-4:] == ["64", "500", "/base", "/cached"], "what is under way at a turn's beginning does not count"


@pytest.mark.parametrize("text", ["Turns: 0 0.000000000 0.000000000\n", "unable to connect\n"])
def test_no_pair_of_turns_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(RuntimeError, match="did not complete a pair of turns"):
        asked_in_turn(monkeypatch, text)
