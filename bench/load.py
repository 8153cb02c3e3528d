"""Load generators: wrk if it is installed, or h2load, else `bench.generator`; `bench.calls` for HTTP/2 and gRPC.

All are closed loops in one thread: each connection or stream sends the next request when the answer is complete.  Those
other than `bench.calls` use HTTP/1.1 keep-alive connections.  `unique` gives each request a query of its own.  h2load
cannot do that; `bench.generator` replaces it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bench import identity, machine
from bench.peers import BEST, ROOT

MICROSECONDS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}
UNIQUE: Final = Path(__file__).with_name("unique.lua")
TURNS: Final = Path(__file__).with_name("turns.lua")
TLS: Final = Path(__file__).with_name("openssl.cnf")
"""Settings of OpenSSL, which wrk, h2load and our own generator use."""
COUNTED: Final = 500
"""Requests of a turn that count."""


class Load(NamedTuple):
    """Result of one load run; latencies are in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    """Answers other than 2xx and 3xx, calls that have not ended with `grpc-status: 0`, and connections that broke."""


class Generate(Protocol):
    """Function that runs a load generator, pinned to a core."""

    def __call__(self, url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load: ...


def wrk(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
    """Load with wrk: percentiles over every request.  The duration is rounded to whole seconds."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    argv += [f"-s{UNIQUE}", url, "--", str(time.monotonic_ns())] if unique else [url]
    text = _run(argv, core, seconds)
    requests, took = re.search(r"(\d+) requests in ([\d.]+)s", text).groups()  # type: ignore[union-attr]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return Load(int(requests), float(took), _percentile(text, 50), _percentile(text, 99), errors)


def in_turn(site: str, paths: tuple[str, str], connections: int, seconds: float, core: int, pid: int) -> float:
    """Return the CPU time of a request to the second path divided by that of one to the first, loaded with wrk.

    Both are requested in turns within one load, since the machine's speed changes within seconds.  Requests in flight
    at the start of a turn belong to the turn before, so the first requests are not counted.
    """
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"-s{TURNS}", site, "--"]
    argv += [str(time.monotonic_ns()), str(machine.cpu_clock(pid)), str(2 * connections), str(COUNTED), *paths]
    found = re.search(r"^Turns: (\d+) ([\d.]+) ([\d.]+)$", text := _run(argv, core, seconds), re.MULTILINE)
    if found is None or found[1] == "0":
        raise RuntimeError(f"wrk did not complete a pair of turns:\n{text}")
    return float(found[3]) / float(found[2])


def _percentile(text: str, share: int) -> float:
    found = re.search(rf"\s{share}%\s+([\d.]+)(us|ms|s|m)\b", text)
    assert found is not None, text
    return float(found[1]) * MICROSECONDS[found[2]]


def h2load(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
    """Load with h2load over HTTP/1.1; the percentiles are taken from its log of all requests."""
    if unique:
        return own(url, connections, seconds, core, unique=True)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "requests"
        argv = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{max(1, round(seconds))}", f"--log-file={log}", url]
        _run(argv, core, seconds)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    times = sorted(float(row[2]) for row in rows)
    starts = [int(row[0]) for row in rows]
    took = (max(starts) - min(starts)) / 1e6
    errors = sum(row[1][:1] not in "23" for row in rows)
    return Load(len(rows), took, times[len(times) // 2], times[len(times) * 99 // 100], errors)


def own(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
    """Load with `bench.generator`, which needs no installation and is slower than wrk."""
    argv = [sys.executable, "-m", "bench.generator", url, str(connections), str(seconds)]
    text = _run([*argv, str(time.monotonic_ns())] if unique else argv, core, seconds)
    return Load(**json.loads(text))


def with_tokens(count: int) -> Generate:
    """Return our own generator with a bearer token in each request; so many come in turn."""
    sent: Counter[str] = Counter()

    def generate(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
        assert not unique
        tokens = identity.tokens(count)
        start = sent[url] % count
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n".join(tokens[start:] + tokens[:start]))
            file.flush()
            argv = [sys.executable, "-m", "bench.generator", url, str(connections), str(seconds), "", file.name]
            found = Load(**json.loads(_run(argv, core, seconds)))
        sent[url] += found.requests + connections
        return found

    return generate


def messages(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
    """Load with WebSocket messages and their echoes (`bench.talk`)."""
    assert not unique
    return _talk("messages", url, connections, seconds, core)


def events(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
    """Load with server-sent events (`bench.talk`)."""
    assert not unique
    return _talk("events", url, connections, seconds, core)


def _talk(kind: str, url: str, connections: int, seconds: float, core: int) -> Load:
    text = _run([sys.executable, "-m", "bench.talk", kind, url, str(connections), str(seconds)], core, seconds)
    return Load(**json.loads(text))


def over_http2(kind: str, streams: int) -> Generate:
    """Return a generator of `bench.calls` with as many streams on each connection."""

    def generate(url: str, connections: int, seconds: float, core: int, *, unique: bool = False) -> Load:
        assert not unique
        argv = fast_python("bench.calls", "load", kind, url, str(connections), str(streams), str(seconds))
        return Load(**json.loads(_run(argv, core, seconds)))

    return generate


def fast_python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of the benchmark, with the compiled `sidecar` where there is one."""
    path = os.pathsep.join(map(str, dict.fromkeys((BEST, ROOT))))
    return ["/usr/bin/env", f"PYTHONPATH={path}", sys.executable, "-P", "-m", module, *arguments]


def _run(argv: list[str], core: int, seconds: float) -> str:
    done = subprocess.run(
        machine.pinned(argv, core),
        capture_output=True,
        text=True,
        timeout=seconds * 2 + 30,
        check=False,
        env={**os.environ, "OPENSSL_CONF": str(TLS)},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed: {(done.stderr or done.stdout)[-1000:]}")
    return done.stdout


GENERATORS: Final[dict[str, Generate]] = {"wrk": wrk, "h2load": h2load, "own": own}


def version(name: str) -> str:
    """Return the generator's name and version."""
    words = {"wrk": ["wrk", "-v"], "h2load": ["h2load", "--version"]}.get(name)
    return " ".join(machine.first_line(words).split()[:2]) if words else "own generator (httptools, uvloop)"


def best() -> str:
    """Return the name of the first generator that is installed."""
    return next(name for name in GENERATORS if name == "own" or shutil.which(name))
