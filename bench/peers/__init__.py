"""Who is compared: one configuration file each, beside this one, and here how each is started.

In the files `${PORT}`, `${ADMIN_PORT}`, `${UPSTREAM_PORT}` and `${DIRECTORY}` stand for what a run chose, and
`${TRACING}` for the file `envoy_tracing.yaml` where traces are wanted.  Each peer does what the sidecar's demo route
does, as far as it can; `lacks` says what it cannot.
"""

from __future__ import annotations

import compileall
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
ROOT: Final = HERE.parent.parent
"""The checkout, which has the sidecar as pure Python."""
POLICIES: Final = ROOT / "policies" / "demo.yaml"
COMPILED: Final = ROOT / "build" / "compiled"
"""Where `make compiled` puts a sidecar whose request path is compiled."""
BEST: Final = COMPILED if COMPILED.exists() else ROOT


def sidecar(python: str, *arguments: str, source: Path = BEST) -> list[str]:
    """Return the command line of the sidecar in a directory; by default the compiled one where there is one."""
    return ["/usr/bin/env", f"PYTHONPATH={source}", python, "-P", "-m", "sidecar", *arguments]


def compile_bytecode(source: Path) -> None:
    """Compile the sidecar in a directory to bytecode, as its installation does; else the first start would do it."""
    compileall.compile_dir(source / "sidecar", quiet=1)


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

    def env(self) -> dict[str, str]:
        """Return the environment variables that the demo's policies read."""
        return {
            "DEMO_PORT": str(self.port),
            "DEMO_ADMIN_PORT": str(self.admin_port),
            "HEALTHY_PORT": str(self.upstream_port),
        }

    def _fill(self, name: str, tracing: str = "") -> str:
        return Template((HERE / name).read_text()).safe_substitute(
            PORT=self.port,
            ADMIN_PORT=self.admin_port,
            UPSTREAM_PORT=self.upstream_port,
            DIRECTORY=self.directory,
            TRACING=tracing,
        )

    def policies(self, *more: str) -> str:
        """Copy the demo's policies, the route of the scenario `cache`, what `traced` adds and the files named `more`.

        Returns their directory.
        """
        directory = self.directory / "policies"
        directory.mkdir()
        names = ("cached.yaml", *(["traced.yaml"] if self.traced else []), *more)
        for path in (POLICIES, *(HERE / name for name in names)):
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
    ready: str = ""
    """Path on the admin port that answers 200 once it is ready; empty where there is none."""

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
        {
            path.relative_to(root): path.read_bytes()
            for kind in ("py", "pyx")
            for path in root.glob(f"sidecar/**/*.{kind}")
        }
        for root in (compiled, sources)
    )
    return made != given


def build() -> str:
    """What the sidecar's request path is."""
    if not COMPILED.exists():
        return "pure Python"
    stale = is_stale(COMPILED, ROOT)
    return f"request path compiled{', FROM OTHER SOURCES THAN THESE: run `make compiled`' if stale else ''}"


PEERS: Final = (
    Peer(
        "sidecar", "",
        lambda program, place: sidecar(program, "run", place.policies()),
        lambda _: f"{version('resilience-sidecar')}, {build()}; "
                  f"aiohttp {version('aiohttp')}, uvloop {version('uvloop')}",
        ROUTE, "", "/readyz",
    ),
    Peer(
        "pure", "",
        lambda program, place: sidecar(program, "run", place.policies(), source=ROOT),
        lambda _: "the same sidecar as pure Python, as a plain `pip install` has it",
        ROUTE, "", "/readyz",
    ),
    Peer(
        "envoy", "envoy",
        lambda program, place: [program, "-c", place.write("envoy.yaml"), "--concurrency", "1", "--log-level", "error",
                                "--disable-hot-restart"],
        lambda program: machine.first_line([program, "--version"]).rpartition("version: ")[2],
        "time-outs, retry with budget, outlier detection, concurrency limit; request id, forwarding fields; "
        "cache filter; OpenTelemetry tracer",
        "breaker by failure rate of a route, bounded queue with a time-out", "/ready",
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
