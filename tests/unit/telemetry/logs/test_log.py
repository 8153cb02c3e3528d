"""Tests of the log: form, storms, secrets, drops, and records of libraries."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from sidecar.core import events
from sidecar.telemetry.logs.log import BURST, RECENT, Emitter, LibraryLog
from sidecar.telemetry.plain import HIDDEN, Secrets
from tests.support.clock import WALL, FakeClock


class Memory:
    """Writer whose lines a test can read; full on demand."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.dropped = 0
        self.full = False

    def write(self, line: bytes) -> bool:
        if self.full:
            self.dropped += 1
            return False
        self.lines.append(line)
        return True

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Log:
    """Log with its clock and its lines."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.lines = Memory()
        self.secrets = Secrets()
        self.emitter = Emitter(
            self.lines,
            now=self.clock.time,
            wall=lambda: WALL + self.clock.time() - self.clock.start,
            call_later=self.clock.call_later,
            secrets=self.secrets,
            **options,
        )
        self.emit = self.emitter.emit


def test_an_event_is_one_line_of_json() -> None:
    log = Log()
    log.emit(events.BREAKER_TRANSITION, breaker="upstream:payments", after="open", why='7 of 10 "failed"\nINFO forged')
    assert log.lines.lines[0].count(b"\n") == 1
    assert log.lines.entries == [
        {
            "time": "2025-06-15T15:06:40.000Z",
            "level": "warning",
            "event": "breaker.transition",
            "breaker": "upstream:payments",
            "after": "open",
            "why": '7 of 10 "failed"\nINFO forged',
        }
    ]
    assert list(log.emitter.recent) == log.lines.entries


def test_the_level_follows_from_the_event_and_can_be_given() -> None:
    log = Log(level="warning")
    log.emit(events.READY)
    log.emit(events.RELOAD_REJECTED)
    log.emit(events.READY, level="error")
    assert [(e["event"], e["level"]) for e in log.lines.entries] == [("reload.rejected", "error"), ("ready", "error")]


def test_text_is_for_people_and_cannot_be_forged() -> None:
    log = Log(form="text")
    log.emit(
        events.RELOAD_APPLIED,
        digest="ab12",
        added=["order"],
        n=3,
        empty="",
        why="two words",
        evil="x\n12:00:00 ERROR\x1b[2J",
        rtl="a\u202eb",
    )
    (line,) = log.lines.lines
    assert line.decode() == (
        '15:06:40.000 INFO    reload.applied digest=ab12 added=["order"] n=3 empty="" why="two words" '
        'evil="x\\n12:00:00 ERROR\\u001b[2J" rtl="a\\u202eb"\n'
    )


def test_an_error_brings_its_stack() -> None:
    log = Log()
    text = Log(form="text")
    try:
        raise ValueError("boom with \x1b[1m")
    except ValueError as error:
        log.emit(events.BUG, where="admin", error=error)
        text.emit(events.BUG, where="admin", error=error)
    (entry,) = log.lines.entries
    assert entry["error"] == "ValueError: boom with \x1b[1m"
    assert "test_log.py" in entry["stack"]
    (lines,) = text.lines.lines
    assert b"\x1b" not in lines
    assert lines.count(b"\n") > 2
    assert all(line.startswith(b"    ") for line in lines.splitlines()[1:])


def test_attributes_cannot_replace_the_head_of_a_line() -> None:
    log = Log()
    log.emit("x", time="never", event="y")
    assert log.lines.entries[0]["event"] == "x"
    assert log.lines.entries[0]["event_"] == "y"
    assert log.lines.entries[0]["time_"] == "never"


def test_nothing_secret_is_printed() -> None:
    log = Log()
    log.secrets.hide(["hunter2"])
    try:
        raise RuntimeError("cannot reach redis://u:pw@cache with hunter2")
    except RuntimeError as error:
        log.emit("x", token="abcdef", error=error, headers={"cookie": "a=b"}, note="Bearer abcdefgh")
    for hidden in (b"hunter2", b"abcdef", b"a=b", b"u:pw"):
        assert hidden not in log.lines.lines[0]
    assert log.lines.entries[0]["token"] == HIDDEN


def test_a_storm_logs_once_a_second_with_the_count_of_the_suppressed() -> None:
    log = Log()
    for second in range(3):
        for i in range(100):
            log.emit("storm", n=second * 100 + i)
            log.clock.advance(0.01)
    log.emit("other")
    log.clock.advance(2)
    storm = [e for e in log.lines.entries if e["event"] == "storm"]
    assert [e["n"] for e in storm[:BURST]] == list(range(BURST))
    summaries = storm[BURST:]
    assert 3 <= len(summaries) <= 4
    assert sum(e["suppressed"] for e in summaries) == 300 - BURST
    assert summaries[-1]["n"] == 299
    assert [e["event"] for e in log.lines.entries].count("other") == 1
    assert len(log.emitter.recent) == len(log.lines.lines)
    log.emit("storm", n=1)
    assert log.lines.entries[-1]["n"] == 1, "calm again: logged at once"
    assert log.clock.timers == []


def test_every_reload_is_told() -> None:
    log = Log()
    for number in range(50):
        log.emit("reload.applied", n=number)
        log.emit("reload.rejected", n=number)
    assert len(log.lines.lines) == 100


def test_a_slow_trickle_is_never_suppressed() -> None:
    log = Log()
    for i in range(50):
        log.emit("trickle", n=i)
        log.clock.advance(0.2)
    assert len(log.lines.lines) == 50


def test_a_gap_is_told_by_the_next_line() -> None:
    log = Log()
    log.lines.full = True
    for _ in range(3):
        log.emit("lost")
    log.lines.full = False
    log.emit("first")
    log.emit("second")
    assert [e.get("dropped") for e in log.lines.entries] == [3, None]


def test_recent_events_are_bounded() -> None:
    log = Log()
    for i in range(3 * RECENT):
        log.emit(f"e{i}")
    assert [log.emitter.recent[0]["event"], log.emitter.recent[-1]["event"]] == [f"e{2 * RECENT}", f"e{3 * RECENT - 1}"]


@pytest.fixture
def library() -> Any:
    logger = logging.getLogger("somelib.part")
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.propagate = True


def test_what_libraries_log_becomes_events(library: logging.Logger) -> None:
    log = Log()
    handler = LibraryLog(log.emit, lambda function: function())
    library.addHandler(handler)
    library.info("not interesting")
    library.warning("took %d ms", 7)
    handler.handle(library.makeRecord(library.name, logging.WARNING, "", 0, "bad %d", ("argument",), None))
    try:
        raise KeyError("x")
    except KeyError:
        library.exception("failed")
    assert [(e["event"], e["level"], e["message"]) for e in log.lines.entries] == [
        ("library.somelib", "warning", "took 7 ms"),
        ("library.somelib", "warning", "bad %d"),
        ("library.somelib", "error", "failed"),
    ]
    assert log.lines.entries[-1]["error"] == "KeyError: 'x'"


def test_a_closed_loop_silences_libraries(library: logging.Logger) -> None:
    def closed(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    library.addHandler(LibraryLog(lambda *_: None, closed))
    library.warning("late")
