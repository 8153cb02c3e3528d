"""CPU until ready: `python -m bench.startup [--rounds 9] [--peers sidecar,envoy] [--against DIR]`.

User and system time of a process from its start until it is ready, the median of several starts in turn. Under a pod's
CPU limit of a tenth of a core it is a tenth of the seconds before the service may start.

- A peer with a readiness endpoint is ready when that answers 200: the sidecar's `/readyz`, Envoy's `/ready`. The others
  are ready when their port accepts a connection.
- Bytecode is compiled before, as in an image. The first start of each is discarded: it warms the page cache.
- `--against DIR` compares this checkout's sidecar with that of another one, as pure Python, with the same interpreter,
  libraries and policies. The ratio is the median of each turn's.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench import machine
from bench.peers import COMPILED, PEERS, ROOT, Peer, Place, compile_bytecode, sidecar

ROUNDS: Final = 9
PATIENCE: Final = 60.0
"""Seconds for one start."""
CHECKOUT: Final = "/readyz"
"""Readiness endpoint of a checkout's sidecar."""
PAUSE: Final = 0.005
"""Seconds between two checks."""

Starts = Mapping[str, Sequence[float]]
"""CPU seconds of each start by name, in the order of the rounds."""


class Program(NamedTuple):
    """Program whose start is measured."""

    name: str
    argv: Callable[[Place], Sequence[str]]
    ready: str = ""
    """Path of the readiness endpoint on the admin port; empty: ready when the port accepts."""


def is_ready(place: Place, path: str) -> bool:
    """True once the readiness endpoint answers 200; without a path, once the port accepts."""
    if not path:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", place.port)) == 0
    connection = http.client.HTTPConnection("127.0.0.1", place.admin_port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def cpu_until(ready: Callable[[], bool], argv: Sequence[str], log: Path, env: dict[str, str]) -> float:
    """Start a process, return the CPU seconds that it used until `ready` returned True, and end it.

    Raises `RuntimeError` with its output if it ends before or takes longer than `PATIENCE`.
    """
    process = machine.spawn(argv, machine.cores()[0], log, env)
    try:
        give_up = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < give_up:
            if ready():
                return machine.cpu_seconds(process.pid)
            time.sleep(PAUSE)
    finally:
        machine.end(process)
    raise RuntimeError(f"{argv[0]} did not become ready; its output:\n{log.read_text()[-4000:]}")


def start(program: Program) -> float:
    """Return the CPU seconds of one start.  Nothing listens on its upstream's port; it gets no requests."""
    with tempfile.TemporaryDirectory(prefix="sidecar-startup-") as directory:
        place = Place(machine.free_port(), machine.free_port(), machine.free_port(), Path(directory))
        argv = program.argv(place)
        return cpu_until(lambda: is_ready(place, program.ready), argv, Path(directory) / "output", place.env())


def measure(programs: Sequence[Program], rounds: int) -> dict[str, list[float]]:
    """Start each in turn, the order turning from round to round."""
    for source in (ROOT, COMPILED):
        compile_bytecode(source)
    found: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(-1, rounds):
        turn = max(0, number) % len(programs)
        for program in [*programs[turn:], *programs[:turn]]:
            used = start(program)
            if number >= 0:
                found[program.name].append(used)
    return found


def of_peers(peers: Sequence[Peer]) -> list[Program]:
    """Return the programs of the peers that are installed."""
    installed = ((peer, peer.find()) for peer in peers)
    return [
        Program(peer.name, lambda place, peer=peer, path=path: peer.argv(path, place), peer.ready)  # type: ignore[misc]
        for peer, path in installed
        if path is not None
    ]


def of_checkout(name: str, directory: Path) -> Program:
    """Return the sidecar of a checkout, as pure Python."""
    return Program(name, lambda place: sidecar(sys.executable, "run", place.policies(), source=directory), CHECKOUT)


def ratio(found: Starts, name: str, other: str) -> float | None:
    """Return the median over the turns of a start's CPU divided by the other's; None if one was not measured."""
    pairs = zip(found.get(name, ()), found.get(other, ()), strict=False)
    times = [one / another for one, another in pairs if another]
    return median(times) if times else None


def table(found: Starts, reference: str) -> list[str]:
    """Return the medians as Markdown, with their ratio to those of the reference."""
    ready = {peer.name: peer.ready for peer in PEERS}
    lines = [f"| | CPU s until ready | times {reference}'s | ready when |", "|---|---:|---:|---|"]
    for name, starts in found.items():
        times = None if name == reference else ratio(found, name, reference)
        path = ready.get(name, CHECKOUT)
        when = f"`{path}` answers 200" if path else "its port accepts a connection"
        lines.append(f"| {name} | {median(starts):.3f} | {'' if times is None else f'{times:.2f}x'} | {when} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description="CPU until ready.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"number of starts of each ({ROUNDS})")
    parser.add_argument("--peers", metavar="A,B", help=", ".join(peer.name for peer in PEERS))
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another checkout's sidecar instead")
    options = parser.parse_args()
    if options.against:
        compile_bytecode(options.against)
        programs = [of_checkout("this", ROOT), of_checkout("other", options.against.resolve())]
        reference = "other"
    else:
        names = options.peers.split(",") if options.peers else [peer.name for peer in PEERS]
        programs = of_peers([peer for peer in PEERS if peer.name in names])
        reference = "envoy"
    print(machine.interpreter())
    found = measure(programs, options.rounds)
    print("\n".join(table(found, reference)))


if __name__ == "__main__":
    main()
