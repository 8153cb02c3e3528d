"""Run the benchmark: `python -m bench [--seconds 3] [--rounds 5] [--peers sidecar,envoy] [--scenarios small]`.

All peers run at once, pinned to the same core, and are loaded one after the other, the order turning from round to
round, so that what else the machine does falls on all alike.  Writes `bench/results.md`; `--json FILE` keeps every
measurement.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import load, machine, report, upstream
from bench.peers import PEERS, Peer, Place
from bench.scenarios import SCENARIOS, Sample, Scenario, measure, wait_until_up

RESULTS: Final = Path(__file__).with_name("results.md")
WARM_UP_SECONDS: Final = 1.0


class Running:
    """A peer that is up."""

    def __init__(self, peer: Peer, program: str, upstream_port: int, directory: Path) -> None:
        directory.mkdir()
        self.peer = peer
        self.version = peer.version(program)
        self.place = Place(machine.free_port(), machine.free_port(), upstream_port, directory)
        self.log = directory / "output"
        env = {
            "DEMO_PORT": str(self.place.port),
            "DEMO_ADMIN_PORT": str(self.place.admin_port),
            "HEALTHY_PORT": str(upstream_port),
        }
        self.process = machine.spawn(peer.argv(program, self.place), machine.cores()[0], self.log, env)

    def check(self) -> None:
        """It must answer by now."""
        if not wait_until_up(self.place.port, "/orders/small"):
            raise SystemExit(f"{self.peer.name} does not answer; what it said:\n{self.log.read_text()[-4000:]}")


def run(options: argparse.Namespace) -> None:
    generate = load.GENERATORS[options.load]
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    growth: dict[str, float] = {}  # by the first idle connections: what they took is seldom given back
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-bench-")))
        running = start(options.peers, directory, stack)
        for scenario in scenarios:
            for number in range(-1, options.rounds):  # the round -1 warms up and is thrown away
                turn = max(0, number) % len(running)
                for one in running[turn:] + running[:turn]:
                    seconds = options.seconds if number >= 0 else WARM_UP_SECONDS
                    sample = measure(scenario, one.process.pid, one.place.port, seconds, generate)
                    if number < 0:
                        growth[one.peer.name] = sample.idle
                    else:
                        sample = sample._replace(idle=growth[one.peer.name])
                        samples[scenario.name, one.peer.name].append(sample)
                        say(scenario, number, one.peer.name, sample)
        facts = {
            "machine": machine.hardware(),
            "interpreter": machine.interpreter(),
            "load": f"{load.version(options.load)}, {options.rounds} rounds of {options.seconds:g} s, medians",
            "upstream": upstream.name(),
            **{one.peer.name: one.version for one in running},
        }
    peers = [one.peer for one in running]
    options.output.write_text(report.markdown(facts, peers, scenarios, samples))
    if options.json:
        options.json.write_text(report.as_json(facts, samples))
    print(f"written: {options.output}")


def start(names: list[str], directory: Path, stack: ExitStack) -> list[Running]:
    """The upstream and every peer that is installed."""
    port = machine.free_port()
    server = machine.spawn(upstream.command(port, directory), machine.cores()[1], directory / "upstream-output")
    stack.callback(machine.end, server)
    if not wait_until_up(port, "/orders/small"):
        raise SystemExit(f"the upstream does not answer:\n{(directory / 'upstream-output').read_text()}")
    running = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        program = peer.find()
        if program is None:
            print(f"{peer.name} is not installed: left out")
            continue
        running.append(Running(peer, program, port, directory / peer.name))
        stack.callback(machine.end, running[-1].process)
    for one in running:
        one.check()
    return running


def say(scenario: Scenario, number: int, name: str, sample: Sample) -> None:
    print(
        f"{scenario.name:<8} round {number + 1} {name:<8} {sample.cpu:6.1f} us/request {sample.per_second:9,.0f}/s "
        f"p50 {sample.p50 / 1000:6.2f} ms  p99 {sample.p99 / 1000:6.2f} ms  {sample.resident / 2**20:6.1f} MiB "
        f"errors {sample.errors:.1%}",
        flush=True,
    )


def names(known: list[str]) -> Callable[[str], list[str]]:
    """An argument that is a list of known names."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        return chosen

    return parse


def main() -> None:
    peers, scenarios = [peer.name for peer in PEERS], [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m bench", description="The sidecar beside other proxies.")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (3)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each peer in each scenario (5)")
    parser.add_argument("--peers", type=names(peers), default=peers, metavar="A,B", help=", ".join(peers))
    parser.add_argument(
        "--scenarios", type=names(scenarios), default=scenarios, metavar="A,B", help=", ".join(scenarios)
    )
    parser.add_argument("--load", choices=load.GENERATORS, default=load.best(), help="load generator")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the report goes")
    parser.add_argument("--json", type=Path, help="where every measurement goes")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("it reads /proc and pins processes to cores: Linux only")
    try:
        run(options)
    except (RuntimeError, subprocess.SubprocessError) as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
