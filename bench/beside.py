"""Effect of a disturbance on the sidecar's latency.

The same load runs without and with the disturbance in turns, so that other work of the machine affects both alike."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench import load, machine, upstream
from bench.load import Load
from bench.scenarios import wait_until_up
from bench.subject import Subject

TARGET: Final = "/orders/small"
CONNECTIONS: Final = 32
TURNS: Final = 4

Policies = Callable[[int], dict[str, Any]]
"""Function that gets the port of the upstream and returns the policies to start with."""
Disturb = Callable[[Subject, int, float], AbstractContextManager[object]]
"""Function that gets the sidecar, its upstream's port and a number of seconds; the context disturbs for that long."""


class Turns(NamedTuple):
    """Results of the load, without and with the disturbance."""

    quiet: list[Load]
    disturbed: list[Load]

    @property
    def ratio(self) -> float:
        """Return p99 with the disturbance over p99 without it."""
        return median(one.p99 for one in self.disturbed) / median(one.p99 for one in self.quiet)

    def lines(self) -> list[str]:
        """Return the results as lines of text."""
        told = []
        for name, turns in (("without", self.quiet), ("with", self.disturbed)):
            p50, p99 = median(one.p50 for one in turns) / 1000, median(one.p99 for one in turns) / 1000
            rate, failed = median(one.requests / one.seconds for one in turns), sum(one.errors for one in turns)
            told.append(f"{name:<8} {rate:8,.0f}/s  p50 {p50:.2f} ms  p99 {p99:.2f} ms  failed {failed}")
        return [*told, f"p99 {self.ratio:.2f}x"]


class Loaded(NamedTuple):
    """Sidecar in front of an upstream, and the load on it."""

    subject: Subject
    port: int
    """Port of the upstream."""
    fire: Callable[[float], Load]
    """Function that runs the load for so many seconds."""


@contextmanager
def loaded(policies: Policies, options: argparse.Namespace, target: str = TARGET) -> Iterator[Loaded]:
    """Start an upstream and the sidecar, and warm them up; `options.load` names the load generator."""
    _, core = machine.cores()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-beside-")))
        port = machine.free_port()
        server = machine.spawn(upstream.command(port, directory), core, directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, target):
            raise SystemExit("the upstream does not answer")
        subject = stack.enter_context(Subject(policies(port), directory, target))
        url = f"http://127.0.0.1:{subject.port}{target}"
        generate = load.GENERATORS[options.load]

        def fire(seconds: float) -> Load:
            return generate(url, CONNECTIONS, seconds, core)

        fire(1.0)
        yield Loaded(subject, port, fire)


def compare(policies: Policies, disturb: Disturb, options: argparse.Namespace, target: str = TARGET) -> Turns:
    """Measure in turns; `options` has `seconds` (of each kind) and `load`."""
    found = Turns([], [])
    seconds = options.seconds / TURNS
    with loaded(policies, options, target) as (subject, port, fire):
        for _ in range(TURNS):
            found.quiet.append(fire(seconds))
            with disturb(subject, port, seconds):
                found.disturbed.append(fire(seconds))
    return found


def arguments(program: str, description: str, seconds: float = 20.0) -> argparse.ArgumentParser:
    """Return a parser with the options that every comparison has."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{program}", description=description)
    parser.add_argument("--seconds", type=float, default=seconds, help=f"seconds of each kind of turns ({seconds:g})")
    parser.add_argument("--load", choices=load.GENERATORS, default=load.best(), help="load generator")
    return parser


def report(turns: Turns, options: argparse.Namespace, what: str) -> None:
    print("\n".join([machine.interpreter(), f"{load.version(options.load)}, {CONNECTIONS} connections; {what}"]))
    print("\n".join(turns.lines()))
