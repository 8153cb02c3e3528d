"""Who is compared: one configuration file each, beside this one, and here how each is started.

In the files `${PORT}`, `${ADMIN_PORT}`, `${UPSTREAM_PORT}` and `${DIRECTORY}` stand for what a run chose.  Each peer
does what the sidecar's demo route does, as far as it can; `lacks` says what it cannot.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Final, NamedTuple

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

    def write(self, name: str) -> str:
        """The configuration of that name with this place filled in; its path."""
        text = Template((HERE / name).read_text()).safe_substitute(
            PORT=self.port, ADMIN_PORT=self.admin_port, UPSTREAM_PORT=self.upstream_port, DIRECTORY=self.directory
        )
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def policies(self) -> str:
        """The demo's policies and the route of the scenario `cache`; their directory."""
        directory = self.directory / "policies"
        directory.mkdir()
        for path in (POLICIES, HERE / "cached.yaml"):
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
    "under `cache` the same behind a cache"
)
BUILD: Final = "request path compiled" if COMPILED.exists() else "pure Python"
PEERS: Final = (
    Peer(
        "sidecar", "",
        lambda program, place: sidecar(program, "run", place.policies()),
        lambda _: f"{version('resilience-sidecar')}, {BUILD}; aiohttp {version('aiohttp')}, uvloop {version('uvloop')}",
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
        "cache filter",
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
