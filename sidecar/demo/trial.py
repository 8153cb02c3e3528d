"""Command `sidecar demo`: four small services behind one sidecar, with `policies/demo.yaml`.

The command starts five processes and waits until they are ready.  It tries each policy once, shows the responses, and
prints commands to try with curl.  Then it runs until Ctrl-C.  On Ctrl-C the sidecar drains; a second Ctrl-C ends it at
once.

- `DEMO_ONCE=1`: end after the trial.
- `DEMO_PORT` (8080), `DEMO_ADMIN_PORT` (9901), `DEMO_SERVICE_PORT` (9001 and the three after it): other ports.
- The exit code is 1 if a response was not as expected.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from sidecar.demo import examples, prices
from sidecar.process import children as processes

HOST: Final = "127.0.0.1"
POLICIES: Final = examples.find("demo.yaml")
KINDS: Final = ("healthy", "slow", "flaky")
"""Services that speak HTTP/1.1; the one of prices is on the port after theirs."""
READY_WITHIN: Final = 15.0
"""Longest time in seconds until all processes are ready."""
DRAIN_WITHIN: Final = 25.0
"""Longest time in seconds for the sidecar to end; more than the drain timeout of the policies."""


class DemoError(Exception):
    """Raised if the demonstration cannot continue; the message says what to do."""


class Ports(NamedTuple):
    """Ports of the sidecar, of its admin listener and of the first service."""

    sidecar: int
    admin: int
    services: int

    @classmethod
    def of(cls, env: Callable[[str, str], str]) -> Ports:
        """Return the ports that environment variables choose.  Raises `DemoError`."""
        names = {"DEMO_PORT": "8080", "DEMO_ADMIN_PORT": "9901", "DEMO_SERVICE_PORT": "9001"}
        try:
            return cls(*(int(env(name, default)) for name, default in names.items()))
        except ValueError as error:
            raise DemoError(f"{', '.join(names)} must be port numbers: {error}") from None

    def all(self) -> list[tuple[str, int]]:
        """Return each port with the environment variable that changes it."""
        services = [("DEMO_SERVICE_PORT", self.services + number) for number in range(len(KINDS) + 1)]
        return [("DEMO_PORT", self.sidecar), ("DEMO_ADMIN_PORT", self.admin), *services]


class Answer(NamedTuple):
    """Answer to one request.

    - `reason`: value of `x-sidecar-reason`; empty if the service itself answered.
    """

    status: int
    reason: str
    retry_after: str
    body: bytes
    seconds: float


class Call(NamedTuple):
    """Answer to one call of gRPC: the name of its status, and the rest as for `Answer`."""

    status: str
    reason: str
    seconds: float


class Demo:
    """Processes of the demonstration, and the trial.

    - `surprises`: number of unexpected answers so far.
    """

    def __init__(self, ports: Ports, directory: Path) -> None:
        self.ports = ports
        self.log = directory / "sidecar.log"
        self.services: list[subprocess.Popen[bytes]] = []
        self.sidecar: subprocess.Popen[bytes] | None = None
        self.surprises = 0

    # ----- start and end

    def start(self) -> None:
        """Start all processes and wait until they are ready.  Raises `DemoError`."""
        for name, port in self.ports.all():
            if not processes.is_free(HOST, port):
                other = f"{name}={port + 1000} sidecar demo"
                raise DemoError(f"port {port} is in use; free it, or choose another one: {other}")
        for number, kind in enumerate(KINDS):
            address = f"{HOST}:{self.ports.services + number}"
            argv = [sys.executable, "-m", "sidecar.demo.services", kind, "--address", address]
            self.services.append(processes.start(argv, self.log))
        address = f"{HOST}:{self.ports.services + len(KINDS)}"
        argv = [sys.executable, "-m", "sidecar.demo.prices", "--address", address]
        self.services.append(processes.start(argv, self.log))
        env = {name: str(port) for name, port in zip(
            ("DEMO_PORT", "DEMO_ADMIN_PORT", "HEALTHY_PORT", "SLOW_PORT", "FLAKY_PORT", "PRICES_PORT"),
            (self.ports.sidecar, self.ports.admin, *(self.ports.services + n for n in range(4))), strict=True,
        )}  # fmt: skip
        argv = [sys.executable, "-m", "sidecar", "run", str(POLICIES)]
        self.sidecar = processes.start(argv, self.log, env)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until all services and the sidecar answer.  Raises `DemoError`."""
        waiting = [(self.ports.services + n, "/healthz") for n in range(len(KINDS))]
        waiting += [(self.ports.services + len(KINDS), ""), (self.ports.admin, "/readyz")]
        give_up = time.monotonic() + READY_WITHIN
        while waiting:
            for child in (*self.services, self.sidecar):
                if child is not None and child.poll() is not None:
                    raise DemoError(
                        f"a process ended with exit code {child.returncode}:\n{self.log.read_text()[-4000:]}"
                    )
            waiting = [(port, path) for port, path in waiting if not self.is_up(port, path)]
            if waiting and time.monotonic() > give_up:
                raise DemoError(f"not ready after {READY_WITHIN:g} s: {waiting}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05 if waiting else 0)

    def is_up(self, port: int, path: str) -> bool:
        """True if a GET is answered with 200, or for an empty path if something listens on the port."""
        try:
            if not path:
                socket.create_connection((HOST, port), 1).close()
                return True
            return self.ask(port, "GET", path).status == 200
        except OSError:
            return False

    def wait(self) -> None:
        """Wait until the sidecar ends."""
        if self.sidecar is not None:
            self.sidecar.wait()

    def stop(self) -> int:
        """Stop all processes and return the sidecar's exit code; the sidecar drains before its services end."""
        code = 0
        if self.sidecar is not None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self.hurry)
            code = processes.stop(self.sidecar, DRAIN_WITHIN)
        for service in self.services:
            service.terminate()
        for service in self.services:
            processes.stop(service, 2.0)
        return code

    def hurry(self, *_: object) -> None:
        """Send a second SIGTERM to the draining sidecar, which then ends at once."""
        if self.sidecar is not None:
            self.sidecar.terminate()

    # ----- the trial

    def ask(self, port: int, method: str, path: str) -> Answer:
        """Send a request and return its response.  Raises `DemoError` for an invalid one."""
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        began = time.monotonic()
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise DemoError(f"{method} {path}: no valid answer: {error!r}") from error
        finally:
            connection.close()
        header = response.headers.get
        took = time.monotonic() - began
        return Answer(response.status, header("x-sidecar-reason", ""), header("retry-after", ""), body, took)

    def call(self, sku: str) -> Call:
        """Ask the sidecar for a price by gRPC."""

        async def call() -> tuple[str, dict[str, Any], str]:
            client = prices.Client(f"{HOST}:{self.ports.sidecar}")
            try:
                return await client.get(sku, {}, timeout=10)
            finally:
                await client.close()

        began = time.monotonic()
        status, _, reason = asyncio.run(call())
        return Call(status, reason, time.monotonic() - began)

    def show(self, what: str, answer: Answer | Call, status: int | str, reason: str | None = "") -> None:
        """Print one line about a response, and count it if it is not as expected; None stands for any reason."""
        fits = answer.status == status and reason in (answer.reason, None)
        self.surprises += not fits
        mark = "ok" if fits else f"EXPECTED {status} {reason or ''}"
        said = f"{answer.status} {answer.reason}".strip()
        print(f"  {mark:<4} {what:<52} {said:<25} {answer.seconds * 1000:6.1f} ms")

    def try_all(self) -> None:
        """Try each policy once."""
        through, flaky = self.ports.sidecar, self.ports.services + 2
        print("a trial:")
        self.show("GET /orders/7, a healthy service", self.ask(through, "GET", "/orders/7"), 200)
        self.show("GET /reports, slower than its timeout", self.ask(through, "GET", "/reports"), 504, "timeout")
        self.ask(flaky, "POST", "/fail")
        for _ in range(5):
            answer = self.ask(through, "GET", "/payments")
        self.show("GET /payments, the 5th failure of its service", answer, 503)
        answer = self.ask(through, "GET", "/payments")
        self.show("GET /payments, refused: the breaker is open", answer, 503, "breaker_open")
        answer = self.ask(through, "GET", "/offers")
        self.show("GET /offers, same breaker, with a fallback", answer, 200, "breaker_open")
        self.ask(flaky, "POST", "/recover")
        self.show("GET /payments, recovered, still refused", self.ask(through, "GET", "/payments"), 503, "breaker_open")
        time.sleep(min(float(answer.retry_after or 2), 5) + 0.5)
        self.show("GET /payments, let through as a probe", self.ask(through, "GET", "/payments"), 200)
        self.show("gRPC shop.Prices/Get, HTTP/2 on the same port", self.call("tea"), "OK")
        self.show("gRPC, ended by a late status, asked again", self.call("unsure"), "OK")
        # Service and sidecar give up at the same instant: either may be the first to say so.
        self.show("gRPC, slower than its timeout", self.call("slow"), "DEADLINE_EXCEEDED", None)
        self.show("GET /v1/prices/tea, the same method as JSON", self.ask(through, "GET", "/v1/prices/tea"), 200)
        self.show("GET /v1/prices/nothing, NOT_FOUND by gRPC", self.ask(through, "GET", "/v1/prices/nothing"), 404)
        state: dict[str, Any] = json.loads(self.ask(self.ports.admin, "GET", "/state").body)
        print(f"  ok   GET /state, the state of the sidecar: {', '.join(state)}\n")

    def hints(self) -> str:
        """Return the commands to try."""
        sidecar, admin, flaky, rpc = self.ports.sidecar, self.ports.admin, *(self.ports.services + n for n in (2, 3))
        return f"""try:
  curl -i localhost:{sidecar}/orders/7                a healthy service
  curl -i localhost:{sidecar}/reports                 a service slower than its timeout: 504 with the policy's name
  curl -X POST localhost:{flaky}/fail               make the payments service fail; then, five times:
  curl -i localhost:{sidecar}/payments                503 from the service; after the 5th one, from the breaker
  curl -i localhost:{sidecar}/offers                  the same service with a fallback
  curl -X POST localhost:{flaky}/recover            the breaker closes again within seconds
  curl -i --http2-prior-knowledge localhost:{sidecar}/orders/7    the healthy service again, over HTTP/2
  curl -i localhost:{sidecar}/v1/prices/tea           a gRPC service, asked by REST; `unsure` fails half of its calls
  curl -N localhost:{sidecar}/v1/prices/tea/changes   its stream: a line each second, until Ctrl-C
  sidecar proto pull localhost:{rpc} -o prices.binpb    the types of the gRPC service
  curl localhost:{admin}/state                      breakers, budgets, endpoints; {admin}/metrics for Prometheus
  edit {os.path.relpath(POLICIES)}                    a change takes effect at once, or the log says why not
  tail -f {self.log}
Ctrl-C drains the sidecar and ends the demonstration."""


def run(demo: Demo) -> int:
    """Run the demonstration from start to end and return the exit code."""
    try:
        demo.start()
        demo.try_all()
        if os.environ.get("DEMO_ONCE") != "1":
            print(demo.hints(), flush=True)
            demo.wait()
    except KeyboardInterrupt:
        print("\ndraining ...", flush=True)
    finally:
        code = demo.stop()
    if code or demo.surprises:
        log = demo.log.read_text()[-4000:]
        print(f"{demo.surprises} unexpected answers; exit code of the sidecar: {code}; its log:\n{log}")
    return 1 if code or demo.surprises else 0


def interrupt(*_: object) -> None:
    """End the demonstration on SIGTERM and SIGHUP as on Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    directory = Path(tempfile.mkdtemp(prefix="sidecar-demo-"))
    try:
        return run(Demo(Ports.of(os.environ.get), directory))
    except DemoError as trouble:
        print(f"demo: {trouble}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
