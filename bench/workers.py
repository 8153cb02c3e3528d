"""CPU of a request with several workers, and how evenly they share it: `python -m bench.workers [--rounds 7]`.

All workers of a sidecar run on one core, and the load on another.  So what is compared is the work, and not how many
cores there are.  CPU is that of the supervisor and of all workers.  The load is the same for each number of workers.

Several processes on one core take its caches from each other, which they would not do on a core each.

- As many independent sidecars, each with a load of its own, show what that costs; the rest is what workers add.
- With `--long-turns` (as root) the policy SCHED_RR of sched(7) lets each process keep the core for 100 ms while it has
  something to do, so that caches are emptied seldom.
- Envoy and nginx stand beside them with as many workers, where they are installed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, Protocol

from bench import load, machine, upstream
from bench.peers import PEERS, Place
from bench.reload import policies
from bench.scenarios import wait_until_up
from bench.subject import Subject

TARGET: Final = "/orders/small"
NUMBERS: Final = (1, 2, 4)
"""Numbers of workers."""
FEW: Final = (4, 8, 16)
"""Numbers of connections in which the share of the busiest worker is measured."""
MANY: Final = 128
"""Connections in which CPU is measured."""
ROOMY: Final = 900
"""Version of the policies, whose limit of concurrency has room for all connections."""
BESIDE: Final = ("envoy", "nginx")
"""Peers with workers."""
SETTLED: Final = 0.5
"""Seconds after the start in which workers may still do what is done once."""


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def used(pid: int) -> dict[int, float]:
    """Return the CPU seconds of a process and then of each of its children, by their numbers."""
    return {each: machine.cpu_seconds(each) for each in (pid, *children(pid))}


class Running(Protocol):
    """Proxy under load, with all its workers."""

    @property
    def port(self) -> int: ...
    @property
    def pid(self) -> int: ...


class Beside(NamedTuple):
    """Running peer."""

    port: int
    pid: int


def start_peers(stack: ExitStack, directory: Path, upstream_port: int) -> dict[tuple[str, int], Beside]:
    """Start the peers that are installed with each number of workers; return them by name and number."""
    found = {}
    for name, number in itertools.product(BESIDE, NUMBERS):
        peer = next(each for each in PEERS if each.name == name)
        if (program := peer.find()) is None:
            continue
        place = Place(machine.free_port(), machine.free_port(), upstream_port, directory / f"{name}-{number}")
        place.directory.mkdir()
        argv = list(peer.argv(program, place))
        if name == "envoy":
            argv[argv.index("--concurrency") + 1] = str(number)
        else:
            config = place.directory / "nginx.conf"
            text = config.read_text().replace("worker_processes 1;", f"worker_processes {number};")
            config.write_text(text.replace("master_process off;", "master_process on;"))
        process = machine.spawn(argv, machine.cores()[0], place.directory / "output")
        stack.callback(machine.end, process)
        if not wait_until_up(place.port, TARGET):
            raise SystemExit(f"{name} does not answer")
        found[name, number] = Beside(place.port, process.pid)
    return found


def measure(subject: Running, connections: int, seconds: float, *, may_fail: bool = False) -> tuple[float, float]:
    """Return microseconds of CPU a request, and the CPU of the busiest worker as a multiple of the mean.

    `may_fail`: True for a peer whose limits have no room for all connections.
    """
    before = used(subject.pid)
    found = load.wrk(f"http://127.0.0.1:{subject.port}{TARGET}", connections, seconds, machine.cores()[1])
    after = used(subject.pid)
    spent = [after[pid] - was for pid, was in before.items() if pid in after]  # nginx's cache loader ends some time
    if may_fail:
        return sum(spent) / found.requests * 1e6, 0.0
    if found.errors:
        raise SystemExit(f"{found.errors} requests failed")
    workers = spent[1:] or spent
    return sum(spent) / found.requests * 1e6, max(workers) * len(workers) / sum(workers)


def measure_together(subjects: Sequence[Subject], seconds: float) -> float:
    """Return microseconds of CPU a request of independent sidecars, which share the connections."""
    connections = MANY // len(subjects)
    before = sum(sum(used(each.pid).values()) for each in subjects)
    with ThreadPoolExecutor(len(subjects)) as threads:
        urls = [f"http://127.0.0.1:{each.port}{TARGET}" for each in subjects]
        found = list(threads.map(lambda url: load.wrk(url, connections, seconds, machine.cores()[1]), urls))
    spent = sum(sum(used(each.pid).values()) for each in subjects) - before
    if errors := sum(each.errors for each in found):
        raise SystemExit(f"{errors} requests failed")
    return spent / sum(each.requests for each in found) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description="Compare numbers of workers.")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each number (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement (1)")
    parser.add_argument("--long-turns", action="store_true", help="let processes keep the core for 100 ms (as root)")
    options = parser.parse_args()
    if options.long_turns:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # children inherit it
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-workers-")))
        port = machine.free_port()
        server = machine.spawn(upstream.command(port, directory), machine.cores()[1], directory / "upstream-output")
        stack.callback(machine.end, server)
        if not wait_until_up(port, TARGET):
            raise SystemExit("the upstream does not answer")

        def start(name: str, workers: int) -> Subject:
            place = directory / name
            place.mkdir()
            whole = {"process": {"workers": workers}, **policies(port, 5, ROOMY)}
            return stack.enter_context(Subject(whole, place, TARGET))

        subjects = {number: start(f"{number} workers", number) for number in NUMBERS}
        others = [start(f"other {number}", 1) for number in range(max(NUMBERS) - 1)]
        independent = {number: [subjects[1], *others[: number - 1]] for number in NUMBERS[1:]}
        peers = start_peers(stack, directory, port)
        time.sleep(SETTLED)
        rounds = [
            {number: measure(each, MANY, options.seconds)[0] for number, each in subjects.items()}
            | {-number: measure_together(each, options.seconds) for number, each in independent.items()}
            for _ in range(1 + options.rounds)
        ][1:]
        print(f"{machine.interpreter()}; {load.version('wrk')}, {MANY} connections, {options.rounds} rounds")
        for number in NUMBERS:
            ratio = median(each[number] / each[NUMBERS[0]] for each in rounds)
            told = f"{number} workers: {median(each[number] for each in rounds):.1f} us a request, {ratio:.2f}x of one"
            if number in independent:
                ratio = median(each[number] / each[-number] for each in rounds)
                told += f", {ratio:.2f}x of {number} independent sidecars"
            print(told)
        theirs = [
            {each: measure(peer, MANY, options.seconds, may_fail=True)[0] for each, peer in peers.items()}
            for _ in range(1 + options.rounds)
        ][1:]
        for name, number in peers:
            ratio = median(each[name, number] / each[name, NUMBERS[0]] for each in theirs)
            print(
                f"{name}, {number} workers: {median(each[name, number] for each in theirs):.1f} us, {ratio:.2f}x of one"
            )
        for connections in FEW:
            busiest = [
                median(measure(subjects[number], connections, options.seconds)[1] for _ in range(options.rounds))
                for number in NUMBERS[1:]
            ]
            told = ", ".join(f"{n} workers {x:.2f}x" for n, x in zip(NUMBERS[1:], busiest, strict=True))
            print(f"{connections} connections: the busiest worker's CPU, of the mean: {told}")


if __name__ == "__main__":
    main()
