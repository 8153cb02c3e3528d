"""Tests of the process's settings of the interpreter."""

from __future__ import annotations

import gc
import time

import pytest

from sidecar.process import interpreter
from sidecar.process.interpreter import OLD, freeze_startup, prepare_imports, yield_interpreter


def test_what_startup_made_is_out_of_the_collectors_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "as it was")
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    try:
        prepare_imports()
        made: list[list[object]] = [[] for _ in range(2000)]
        assert not gc.isenabled(), "nothing is collected while modules are imported"
        freeze_startup()
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
        assert not any(each is made for each in gc.get_objects())
        assert gc.get_threshold() == (*thresholds[:2], OLD)
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_a_thread_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    yield_interpreter()
    assert slept == [interpreter.PAUSE_SECONDS]
