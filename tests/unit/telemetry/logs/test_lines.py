"""Tests of the line writer on real pipes: order, bounds, and a reader that does not read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from sidecar.telemetry.logs.lines import LineWriter

PATIENCE = 60.0


class Pipe:
    """Pipe with a reader that starts when the test says so."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._reader.start()

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)

    def text(self) -> bytes:
        """Return all written data, once the writer has ended."""
        self.close(self.write)
        self._reader.join(PATIENCE)
        return b"".join(self._pieces)

    def _run(self) -> None:
        while piece := os.read(self.read, 65536):
            self._pieces.append(piece)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close(pipe.write)
    pipe.close(pipe.read)


def test_lines_are_written_in_order_and_all_of_them_before_closing(pipe: Pipe) -> None:
    pipe.start()
    writer = LineWriter(pipe.write)
    lines = [b"line %d\n" % i for i in range(5000)]
    assert all(writer.write(line) for line in lines)
    assert writer.close(PATIENCE)
    assert pipe.text() == b"".join(lines)
    assert (writer.dropped, writer.waiting) == (0, 0)


def test_a_reader_that_does_not_read_costs_lines_and_no_time(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write, max_bytes=100_000)
    line = b"x" * 999 + b"\n"
    taken = sum(writer.write(line) for _ in range(2000))
    assert taken < 2000
    assert writer.dropped == 2000 - taken
    assert writer.waiting <= 100_000
    assert not writer.close(timeout=0.01), "the pipe is full: closing gives up"
    assert not writer.write(line), "closed"
    pipe.start()
    assert writer.close(PATIENCE)
    assert pipe.text() == line * taken


def test_a_line_longer_than_the_bound_is_dropped(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write, max_bytes=10)
    assert not writer.write(b"x" * 11)
    assert writer.close(PATIENCE)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.write, False)
    writer = LineWriter(pipe.write)
    lines = [b"%06d" % i * 1000 + b"\n" for i in range(100)]
    for line in lines:
        writer.write(line)
    pipe.start()
    assert writer.close(PATIENCE)
    assert pipe.text() == b"".join(lines)


def test_a_reader_that_is_gone_is_counted_and_the_writer_goes_on(pipe: Pipe) -> None:
    pipe.close(pipe.read)
    writer = LineWriter(pipe.write)
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert writer.close(PATIENCE)
    assert writer.dropped == 2
