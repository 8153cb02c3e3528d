"""Proxies that the benchmark compares, and how each is started; each has a configuration file in this directory.

In these files `${PORT}`, `${UPSTREAM_PORT}`, `${DIRECTORY}` and the like stand for values of the run.  Settings that
only some scenarios need (`VARIANTS`) are files of their own; in the configurations of Envoy and nginx names such as
`${TRACING}` are replaced by them.  Each peer does the same as the sidecar's demo route, as far as it can; `lacks` names
the rest.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

import yaml

from bench import machine
from bench.identity import KEYS
from sidecar.config.files import Source, parse
from sidecar.config.report import Report

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
"""Directory of the checkout, which has the sidecar as pure Python."""
POLICIES: Final = ROOT / "policies" / "demo.yaml"
DESCRIPTORS: Final = ROOT / "policies" / "proto" / "shop.binpb"
COMPILED: Final = ROOT / "build" / "compiled"
"""Directory into which `make compiled` installs a sidecar whose request path is compiled."""
BEST: Final = COMPILED if COMPILED.exists() else ROOT


def sidecar(python: str, *arguments: str, source: Path = BEST) -> list[str]:
    """Return the command line of the sidecar in a directory; by default the compiled one where there is one."""
    return ["/usr/bin/env", f"PYTHONPATH={source}", python, "-P", "-m", "sidecar", *arguments]


def without_nulls(node: Any) -> Any:
    """Return a document without the nulls in its lists: parts that a variant does not have."""
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_nulls(value) for value in node if value is not None]
    return node


def compile_bytecode(source: Path) -> None:
    """Compile the sidecar in a directory to bytecode, as an installation does; else its first start would do it."""
    compileall.compile_dir(source / "sidecar", quiet=1)


class Variant(NamedTuple):
    """Additions to the demo's route, in a process of their own, so that they cost other scenarios nothing."""

    policies: tuple[str, ...] = ()
    """Policy files that are added to the demo's."""
    envoy: Mapping[str, str] = {}
    """Files for the names in `envoy.yaml`; all other names become null."""
    has_tls: bool = False
    """True if its clients speak TLS."""
    is_http2: bool = False
    """True if clients may speak HTTP/2, with prior knowledge; with nginx they must."""
    probe: str = "/orders/small"
    """Path that is answered with 200."""


TRACED: Final = "traced"
LOGGED: Final = "logged"
PROMPT: Final = "prompt"
TALK: Final = "talk"
PARTS: Final = "parts"
LIMITED: Final = "limited"
TOKENS: Final = "tokens"
HTTP2: Final = "http2"
TRANSCODED: Final = "transcoded"
TLS_DOWNSTREAM: Final = "tls_downstream"
TLS_UPSTREAM: Final = "tls_upstream"
TLS_BOTH: Final = "tls_both"
INBOUND_TLS: Final = {"DOWNSTREAM_TLS": "envoy_downstream_tls.yaml"}
OUTBOUND_TLS: Final = {"UPSTREAM_TLS": "envoy_upstream_tls.yaml"}
VARIANTS: Final = {
    "": Variant(),
    TRACED: Variant(("traced.yaml",), {"TRACING": "envoy_tracing.yaml"}),
    LOGGED: Variant(("logged.yaml",), {"ACCESS_LOG": "envoy_access_log.yaml"}),
    PROMPT: Variant(("prompt.yaml",)),
    TALK: Variant(("talk.yaml",)),
    PARTS: Variant(("parts.yaml",), probe="/page/small"),
    LIMITED: Variant(("limited.yaml",), {"LIMITER": "envoy_limiter.yaml"}),
    TOKENS: Variant(("known.yaml", "fresh.yaml"), {"AUTHENTICATION": "envoy_jwt.yaml"}),
    HTTP2: Variant(("http2.yaml",), is_http2=True),
    TRANSCODED: Variant(("transcoded.yaml",), {"TRANSCODER": "envoy_transcoder.yaml"}, probe="/v1/shops/7/orders/1"),
    TLS_DOWNSTREAM: Variant(("tls_downstream.yaml",), INBOUND_TLS, has_tls=True),
    TLS_UPSTREAM: Variant(("tls_upstream.yaml",), OUTBOUND_TLS),
    TLS_BOTH: Variant(("tls_both.yaml",), {**INBOUND_TLS, **OUTBOUND_TLS}, has_tls=True, probe="/secure/small"),
}
ENVOY_NAMES: Final = (
    "TRACING", "ACCESS_LOG", "DOWNSTREAM_TLS", "UPSTREAM_TLS", "TRANSCODER", "LIMITER", "AUTHENTICATION",
)  # fmt: skip
NOBODY: Final = 9
"""Port for upstreams that a scenario does not use."""


class Place(NamedTuple):
    """Ports and directory of one running peer."""

    port: int
    admin_port: int
    upstream_port: int
    directory: Path
    variant: str = ""
    """Name in `VARIANTS`."""
    secure_port: int = NOBODY
    """Port on which the upstream speaks TLS."""
    talker_port: int = NOBODY
    """Port of the upstream `bench.talk`."""
    identity: Path = Path()
    """Directory of `bench.certificates`, with the key set of `bench.identity`."""
    rpc_port: int = NOBODY
    """Port of the upstream `bench.calls`."""
    leaving_port: int = NOBODY
    """Port on which it ends each connection after a second."""

    def write(self, name: str) -> str:
        """Write the configuration of that name with the values of this place, and return its path."""
        path = self.directory / name
        text = self._fill(name, **self._parts())
        if name == "envoy.yaml":
            text = json.dumps(without_nulls(yaml.safe_load(text)))  # Envoy knows no merge keys
        path.write_text(text)
        return str(path)

    def env(self) -> dict[str, str]:
        """Return the environment variables that the demo's policies and those of the variants read."""
        has_tls = VARIANTS[self.variant].has_tls
        return {
            "DEMO_PORT": str(machine.free_port() if has_tls else self.port),
            "DEMO_ADMIN_PORT": str(self.admin_port),
            "HEALTHY_PORT": str(self.upstream_port),
            "BENCH_PORT": str(self.port),
            "BENCH_SECURE_PORT": str(self.secure_port),
            "BENCH_TALKER_PORT": str(self.talker_port),
            "BENCH_IDENTITY": str(self.identity),
            "BENCH_KEYS": str(self.identity / KEYS),
            "BENCH_RPC_PORT": str(self.rpc_port),
            "BENCH_LEAVING_PORT": str(self.leaving_port),
            "BENCH_DESCRIPTORS": str(DESCRIPTORS),
        }

    def _parts(self) -> dict[str, str]:
        """Return what the variant puts into a configuration, by name."""
        variant = VARIANTS[self.variant]
        parts = dict.fromkeys(ENVOY_NAMES, "null")
        for name, file in variant.envoy.items():
            parts[name] = json.dumps(yaml.safe_load(self._fill(file)))
        is_secure = self.variant in (TLS_DOWNSTREAM, TLS_UPSTREAM, TLS_BOTH)
        return {
            **parts,
            "CODEC": "AUTO" if variant.is_http2 else "HTTP1",
            "LISTEN": "ssl" if variant.has_tls else "http2" if variant.is_http2 else "",
            "RPC": self._fill("nginx_http2.conf") if variant.is_http2 else "",
            "CALLS": self._fill("nginx_grpc.conf") if variant.is_http2 else "",
            "SECURE": self._fill("nginx_secure.conf") if is_secure else "",
            "SECURE_URL": "https://secure" if is_secure else "http://app",
            "LOG": f"{self.directory}/access.log line buffer=64k flush=1s" if self.variant == LOGGED else "off",
        }

    def _fill(self, name: str, **parts: str) -> str:
        return Template((HERE / name).read_text()).safe_substitute(
            PORT=self.port,
            ADMIN_PORT=self.admin_port,
            UPSTREAM_PORT=self.upstream_port,
            SECURE_PORT=self.secure_port,
            TALKER_PORT=self.talker_port,
            RPC_PORT=self.rpc_port,
            LEAVING_PORT=self.leaving_port,
            DESCRIPTORS=DESCRIPTORS,
            IDENTITY=self.identity,
            DIRECTORY=self.directory,
            **parts,
        )

    def policies(self, *more: str) -> str:
        """Copy the demo's policies, the route of the scenario `cache`, those of the variant and the files `more`.

        The demo's gRPC service and its routes are left out: scenarios of gRPC have variants of their own.  Returns the
        directory of the copies.
        """
        directory = self.directory / "policies"
        directory.mkdir()
        root = parse(Source(POLICIES.name, POLICIES.read_bytes()), {}, Report())
        assert root is not None
        demo = root.shown()  # with names of variables, which `env` sets
        del demo["upstreams"]["prices"], demo["policies"]["careful-call"]
        demo["routes"] = [route for route in demo["routes"] if route["upstream"] != "prices"]
        (directory / POLICIES.name).write_text(yaml.safe_dump(demo, sort_keys=False))
        for path in (HERE / name for name in ("cached.yaml", *VARIANTS[self.variant].policies, *more)):
            shutil.copy(path, directory)
        return str(directory)


class Peer(NamedTuple):
    """A proxy under test."""

    name: str
    program: str
    """Command that must be installed; empty for the sidecar and programs that are installed with it."""
    argv: Callable[[str, Place], Sequence[str]]
    """Function that gets the program's path and the place, and returns the command line of one foreground process."""
    version: Callable[[str], str]
    policies: str
    lacks: str
    ready: str = ""
    """Path on the admin port that answers 200 once the peer is ready; empty if there is none."""

    def find(self) -> str | None:
        """Return the path of the program; None if it is not installed."""
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
    "under `cache` and `stored` the same behind a cache, under `known` and `fresh` with tokens, "
    "under `traced` with 1 % of the requests traced, under `logged` with a line for each; "
    "HTTP/2 and gRPC with retries of UNAVAILABLE as well"
)


def is_stale(compiled: Path, sources: Path) -> bool:
    """True if the sidecar in `compiled` was made from other sources than those in `sources`."""
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
    """Return in words whether the sidecar's request path is compiled."""
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
        "cache filter; JWT filter; OpenTelemetry tracer; access log; transcoder",
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
        "timeouts, next-upstream on the same conditions, request id, forwarding fields; `proxy_cache`; access log; "
        "`grpc_pass`",
        "total time-out, backoff, retry budget, breaker, retry on the only endpoint, traces, gRPC statuses",
    ),
    Peer(
        "aiohttp", "",
        lambda program, place: [program, "-m", "bench.peers.plain", str(place.port), str(place.upstream_port)],
        lambda _: f"{version('aiohttp')}, uvloop {version('uvloop')}",
        "none: `web.Server` and `ClientSession`, hop-by-hop fields removed; under `parts` three requests by `gather`",
        "every policy",
    ),
    Peer(
        "relay", "haproxy",
        lambda program, place: [program, "-db", "-q", "-f", place.write("relay.cfg")],
        lambda program: f"{machine.first_line([program, '-v']).split(' - ')[0]}, forwarding bytes",
        "none: bytes go on as they come, so its CPU is what the kernel and an event loop cost every proxy",
        "HTTP, and with it every policy",
    ),
)  # fmt: skip
