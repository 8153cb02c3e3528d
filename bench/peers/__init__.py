"""Who is compared: one configuration file each, beside this one, and here how each is started.

In the files `${PORT}`, `${ADMIN_PORT}`, `${UPSTREAM_PORT}` and `${DIRECTORY}` stand for what a run chose, and
`${TRACING}` for the file `envoy_tracing.yaml` where traces are wanted.  Each peer does what the sidecar's demo route
does, as far as it can; `lacks` says what it cannot.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Final, NamedTuple

import yaml

from bench import machine

HERE: Final = Path(__file__).parent
POLICIES: Final = HERE.parent.parent / "policies" / "demo.yaml"
COMPILED: Final = HERE.parent.parent / "build" / "compiled"
"""Where `make compiled` puts a sidecar whose request path is compiled."""


def sidecar(python: str, *arguments: str, compiled: bool = COMPILED.exists()) -> list[str]:
    """The command line of a sidecar, the compiled one where there is one."""
    path = [f"PYTHONPATH={COMPILED}"] if compiled else []
    return ["/usr/bin/env", *path, python, "-P", "-m", "sidecar", *arguments]


class Place(NamedTuple):
    """Where one peer runs."""

    port: int
    admin_port: int
    upstream_port: int
    directory: Path
    traced: bool = False
    """Does one request in a hundred go to the collector?"""

    def write(self, name: str) -> str:
        """The configuration of that name with this place filled in; its path."""
        tracing = yaml.safe_load(self._fill("envoy_tracing.yaml")) if self.traced else None
        path = self.directory / name
        path.write_text(self._fill(name, json.dumps(tracing)))
        return str(path)

    def _fill(self, name: str, tracing: str = "") -> str:
        return Template((HERE / name).read_text()).safe_substitute(
            PORT=self.port,
            ADMIN_PORT=self.admin_port,
            UPSTREAM_PORT=self.upstream_port,
            DIRECTORY=self.directory,
            TRACING=tracing,
        )

    def policies(self) -> str:
        """The demo's policies, the route of the scenario `cache` and what `traced` adds; their directory."""
        directory = self.directory / "policies"
        directory.mkdir()
        for path in (POLICIES, HERE / "cached.yaml", *([HERE / "traced.yaml"] if self.traced else [])):
            shutil.copy(path, directory)
        return str(directory)


class Peer(NamedTuple):
    """A proxy under test."""

    name: str
    program: str
    """The command that must be there; empty for ourselves and what comes with us."""
    argv: Callable[[str, Place], Sequence[str]]
    """From the program's path and the place to the command line of one process, which stays in the foreground."""
    version: Callable[[str], str]
    policies: str
    lacks: str

    def find(self) -> str | None:
        """The path of its program, None where it is not installed."""
        if not self.program:
            return sys.executable
        beside = Path(sys.executable).with_name(self.program)
        return (
            str(beside)
            if beside.exists()
            else shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        )


ROUTE: Final = (
    "route `order` of policies/demo.yaml: deadline, time-out of an attempt, retry with backoff and budget, "
    "breaker by failure rate, concurrency limit with queue; request id, forwarding fields, metrics; "
    "under `cache` and `stored` the same behind a cache, under `traced` with 1 % of the requests traced"
)


def is_stale(compiled: Path, sources: Path) -> bool:
    """Was the sidecar in one directory made from other sources than those in the other?"""
    made, given = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("sidecar/**/*.py")}
        for root in (compiled, sources)
    )
    return made != given


def build() -> str:
    """What the sidecar's request path is."""
    if not COMPILED.exists():
        return "pure Python"
    stale = is_stale(COMPILED, HERE.parent.parent)
    return f"request path compiled{', FROM OTHER SOURCES THAN THESE: run `make compiled`' if stale else ''}"


PEERS: Final = (
    Peer(
        "sidecar", "",
        lambda program, place: sidecar(program, "run", place.policies()),
        lambda _: f"{version('resilience-sidecar')}, {build()}; "
                  f"aiohttp {version('aiohttp')}, uvloop {version('uvloop')}",
        ROUTE, "",
    ),
    Peer(
        "pure", "",
        lambda program, place: sidecar(program, "run", place.policies(), compiled=False),
        lambda _: "the same sidecar as pure Python, as a plain `pip install` has it",
        ROUTE, "",
    ),
    Peer(
        "envoy", "envoy",
        lambda program, place: [program, "-c", place.write("envoy.yaml"), "--concurrency", "1", "--log-level", "error",
                                "--disable-hot-restart"],
        lambda program: machine.first_line([program, "--version"]).rpartition("version: ")[2],
        "time-outs, retry with budget, outlier detection, concurrency limit; request id, forwarding fields; "
        "cache filter; OpenTelemetry tracer",
        "breaker by failure rate of a route, bounded queue with a time-out",
    ),
    Peer(
        "haproxy", "haproxy",
        lambda program, place: [program, "-db", "-q", "-f", place.write("haproxy.cfg")],
        lambda program: machine.first_line([program, "-v"]).split(" - ")[0],
        "timeouts, retry on the same conditions, concurrency limit with queue, request id, forwarding fields",
        "total time-out, backoff, retry budget, breaker; configured without a cache",
    ),
    Peer(
        "nginx", "nginx",
        lambda program, place: [program, "-p", str(place.directory), "-c", place.write("nginx.conf"),
                                "-e", str(place.directory / "nginx.log")],
        lambda program: machine.first_line([program, "-v"]).rpartition("/")[2],
        "timeouts, next-upstream on the same conditions, request id, forwarding fields; `proxy_cache`",
        "total time-out, backoff, retry budget, breaker, retry on the only endpoint",
    ),
    Peer(
        "aiohttp", "",
        lambda program, place: [program, "-m", "bench.peers.plain", str(place.port), str(place.upstream_port)],
        lambda _: f"{version('aiohttp')}, uvloop {version('uvloop')}",
        "none: `web.Server` and `ClientSession`, hop-by-hop fields removed", "every policy",
    ),
)  # fmt: skip
