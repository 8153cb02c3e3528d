"""Run the benchmark: `python -m bench [--seconds 1] [--rounds 9] [--peers sidecar,envoy] [--scenarios small,costs]`.

All peers run at once, pinned to the same core, and are loaded one after the other.  The order rotates from round to
round, so that other work of the machine disturbs all peers alike.  The cost of each policy (`bench.costs`) and the CPU
time until ready (`bench.startup`) are measured last.

Writes `bench/results.md`; `--json FILE` keeps every measurement.
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
from typing import Final, NamedTuple

from bench import certificates, costs, load, machine, report, startup, upstream
from bench.identity import KEYS, issuer
from bench.peers import COMPILED, PEERS, VARIANTS, Peer, Place
from bench.scenarios import SCENARIOS, Sample, Scenario, measure, wait_until_up

RESULTS: Final = Path(__file__).with_name("results.md")
WARM_UP_SECONDS: Final = 1.0
MAX_RESTARTS: Final = 5
COSTS: Final = "costs"
STARTUP: Final = "startup"
"""Names of the two measurements that are not scenarios, for `--scenarios`."""


class Behind(NamedTuple):
    """Ports of the upstreams of a run."""

    port: int
    secure_port: int
    """Port that speaks TLS."""
    talker_port: int
    """Port of `bench.talk`."""
    identity: Path
    """Directory of the certificates and of the issuer's key set."""
    rpc_port: int
    """Port of `bench.calls`."""
    leaving_port: int


class Running:
    """Running process of a peer."""

    def __init__(self, peer: Peer, program: str, behind: Behind, directory: Path, variant: str) -> None:
        directory.mkdir()
        self.peer = peer
        self.version = peer.version(program)
        self.variant = VARIANTS[variant]
        self.place = Place(machine.free_port(), machine.free_port(), behind.port, directory, variant, *behind[1:])
        self.growth = 0.0
        """Bytes that each of the first idle connections took.  Later ones reuse memory, since it is seldom freed."""
        self.log = directory / "output"
        self.exit_codes: list[int] = []
        """Exit codes of the process each time that it ended by itself and was started again."""
        self._program = program
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        argv = self.peer.argv(self._program, self.place)
        return machine.spawn(argv, machine.cores()[0], self.log, self.place.env())

    def end(self) -> None:
        machine.end(self.process)

    def restart_if_ended(self) -> bool:
        """Start the process again if it has ended by itself; True if so."""
        if self.process.poll() is None:
            return False
        self.exit_codes.append(self.process.returncode)
        if len(self.exit_codes) > MAX_RESTARTS:
            raise SystemExit(f"{self.peer.name} ended by itself too often; its output:\n{self.log.read_text()[-4000:]}")
        print(f"{self.peer.name} ended by itself, exit code {self.process.returncode}; started again", flush=True)
        self.process = self._start()
        self.check()
        return True

    @property
    def description(self) -> str:
        """Return the version of the peer, and the exit codes with which it ended during the run."""
        codes = ", ".join(map(str, self.exit_codes))
        return f"{self.version}; ENDED BY ITSELF under load (exit codes {codes})" if self.exit_codes else self.version

    def check(self) -> None:
        """End the program with a message unless the peer answers."""
        variant = self.variant
        if not wait_until_up(self.place.port, variant.probe, has_tls=variant.has_tls, is_http2=variant.is_http2):
            raise SystemExit(f"{self.peer.name} does not answer; its output:\n{self.log.read_text()[-4000:]}")


def run(options: argparse.Namespace) -> None:
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-bench-")))
        running = start(options.peers, scenarios, directory, stack)
        for scenario in scenarios:
            taking_part = [
                one for one in running if scenario.of(one.peer.name) and one.place.variant == scenario.variant
            ]
            for number in range(-1, options.rounds):  # round -1 warms up and is discarded
                turn = max(0, number) % max(1, len(taking_part))
                for one in taking_part[turn:] + taking_part[:turn]:
                    sample = measure_one(scenario, number, one, options)
                    if number >= 0:
                        samples[scenario.name, one.peer.name].append(sample)
        facts = {
            "machine": machine.hardware(),
            "interpreter": machine.interpreter(),
            "load": f"{load.version(options.load)}, {options.rounds} rounds of {options.seconds:g} s, medians",
            "upstream": upstream.name(),
            **{one.peer.name: one.description for one in sorted(running, key=lambda one: len(one.exit_codes))},
        }
    found = costs.measure_apart(options.repeat) if COSTS in options.scenarios else []
    programs = startup.of_peers([peer for peer in PEERS if peer.name in options.peers])
    starts = startup.measure(programs, options.rounds) if STARTUP in options.scenarios else {}
    peers = list(dict.fromkeys(one.peer for one in running))
    options.output.write_text(report.markdown(facts, peers, scenarios, samples, found, starts))
    if options.json:
        options.json.write_text(report.as_json(facts, samples, found, starts))
    print(f"written: {options.output}")


def measure_one(scenario: Scenario, number: int, one: Running, options: argparse.Namespace) -> Sample:
    """Return one measurement of a peer, repeated if it ends meanwhile; `number` is that of the round."""
    seconds = options.seconds if number >= 0 else WARM_UP_SECONDS
    try:
        sample = measure(scenario, one.process.pid, one.place.port, seconds, load.GENERATORS[options.load])
    except RuntimeError:
        if not one.restart_if_ended():
            raise
        return measure_one(scenario, number, one, options)
    if one.restart_if_ended():
        return measure_one(scenario, number, one, options)
    if number < 0:
        one.growth = sample.idle
        return sample
    sample = sample._replace(idle=one.growth)
    print_sample(scenario, number, one.peer.name, sample)
    return sample


def start(names: list[str], scenarios: list[Scenario], directory: Path, stack: ExitStack) -> list[Running]:
    """Start the upstreams, and a process of every installed peer for each variant that its scenarios need."""
    if not scenarios:
        return []
    behind = serve(directory, stack)
    running = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        program = peer.find()
        if program is None:
            print(f"{peer.name} is not installed, so it is left out")
            continue
        for variant in dict.fromkeys(scenario.variant for scenario in scenarios if scenario.of(peer.name)):
            running.append(Running(peer, program, behind, directory / f"{peer.name}-{variant or 'demo'}", variant))
            stack.callback(running[-1].end)
    for one in running:
        one.check()
    for told in dict.fromkeys(f"{one.peer.name}: {one.version}" for one in running):
        print(told)
    return running


def serve(directory: Path, stack: ExitStack) -> Behind:
    """Start the upstreams."""
    identity = certificates.make(directory / "identity")
    (identity / KEYS).write_text(issuer().key_set())
    ports = [machine.free_port() for _ in range(5)]
    behind = Behind(ports[0], ports[1], ports[2], identity, ports[3], ports[4])
    core = machine.cores()[1]
    talker = [sys.executable, "-m", "bench.talk", "serve", str(behind.talker_port)]
    rpc = load.fast_python("bench.calls", "serve", str(behind.rpc_port), str(behind.leaving_port))
    for name, argv, port in (
        ("upstream", upstream.command(behind.port, directory, behind.secure_port, behind.identity), behind.port),
        ("talker", talker, behind.talker_port),
        ("rpc", rpc, behind.rpc_port),
    ):
        log = directory / f"{name}-output"
        stack.callback(machine.end, machine.spawn(argv, core, log))
        if not wait_until_up(port, "/orders/small", is_http2=name == "rpc"):
            raise SystemExit(f"the {name} does not answer:\n{log.read_text()}")
    return behind


def print_sample(scenario: Scenario, number: int, name: str, sample: Sample) -> None:
    """Print one measurement as a line."""
    print(
        f"{scenario.name:<14} round {number + 1} {name:<8} {sample.cpu:6.1f} us/request {sample.per_second:9,.0f}/s "
        f"p50 {sample.p50 / 1000:6.2f} ms  p99 {sample.p99 / 1000:6.2f} ms  {sample.resident / 2**20:6.1f} MiB "
        f"errors {sample.errors:.1%}{f'  {sample.times:.2f}x' if sample.times else ''}",
        flush=True,
    )


def names(known: list[str]) -> Callable[[str], list[str]]:
    """Return a parser of an argument that is a list of known names."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        return chosen

    return parse


def main() -> None:
    peers = [peer.name for peer in PEERS if peer.name != "pure" or COMPILED.exists()]  # else `sidecar` is pure
    scenarios = [*(scenario.name for scenario in SCENARIOS), COSTS, STARTUP]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the sidecar beside other proxies.")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement (1)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each peer in each scenario (9)")
    parser.add_argument("--repeat", type=int, default=costs.REPEAT, help=f"short runs of each policy ({costs.REPEAT})")
    parser.add_argument("--peers", type=names(peers), default=peers, metavar="A,B", help=", ".join(peers))
    parser.add_argument(
        "--scenarios", type=names(scenarios), default=scenarios, metavar="A,B", help=", ".join(scenarios)
    )
    parser.add_argument("--load", choices=load.GENERATORS, default=load.best(), help="load generator")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the report")
    parser.add_argument("--json", type=Path, help="file for all measurements, as JSON")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("the benchmark reads /proc and pins processes to cores; run it on Linux")
    try:
        run(options)
    except (RuntimeError, subprocess.SubprocessError) as error:
        raise SystemExit(f"bench: {error}") from error


if __name__ == "__main__":
    main()
