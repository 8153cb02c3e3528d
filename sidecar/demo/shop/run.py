"""Command `sidecar demo shop`: the shop as plain processes on loopback.

The command starts the services, each with a sidecar, requests of customers, and a fault once a minute.  It prints the
addresses of the live pages, and runs until Ctrl-C.

- Redis is started if `redis-server` is installed; without it, the caches have no shared tier.
- Rotel is started as collector if it is installed (`pip install rotel`), unless `OTEL_EXPORTER_OTLP_ENDPOINT` names
  another collector.
- `SHOP_ONCE=1`: end after one order has passed all services.  `SHOP_PORT` (18000): first of 27 ports.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from sidecar.demo import examples
from sidecar.demo.shop import TOKEN, collector
from sidecar.process import children as processes

HOST: Final = "127.0.0.1"
READY_WITHIN: Final = 20.0
"""Longest time in seconds until all processes are ready."""
DRAIN_WITHIN: Final = 20.0
"""Longest time in seconds for a sidecar to end."""
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
SAMPLED: Final = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
"""Header field of the first order, so that it is traced whatever the sampling of the policies."""


class Place(NamedTuple):
    """Service with its sidecar, and their ports."""

    name: str
    role: str
    app: int
    inbound: int
    outbound: int
    admin: int


def places(base: int) -> list[Place]:
    """Return six services with four ports each, from `base` on; inventory runs twice."""
    roles = {
        "web": "web",
        "orders": "orders",
        "inventory-1": "inventory",
        "inventory-2": "inventory",
        "payments": "payments",
        "prices": "prices",
    }
    return [Place(name, role, *range(base + 4 * n, base + 4 * n + 4)) for n, (name, role) in enumerate(roles.items())]


class ShopError(Exception):
    """Raised if the shop cannot be started; the message says what to do."""


class Shop:
    """All processes of the shop.

    - `collector`: address of the collector over HTTP; gRPC is on the next port.
    """

    def __init__(self, base: int, directory: Path) -> None:
        self.places = places(base)
        self.redis = base + 4 * len(self.places)
        self.collector = f"{HOST}:{self.redis + 1}"
        self.directory = directory
        self.sidecars: list[subprocess.Popen[bytes]] = []
        self.others: list[subprocess.Popen[bytes]] = []
        self.traffic: list[subprocess.Popen[bytes]] = []

    def url(self, name: str) -> str:
        """Return the URL of a service's sidecar."""
        return next(f"http://{HOST}:{place.inbound}" for place in self.places if place.name == name)

    def run(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a program with a log of its own."""
        return processes.start(argv, self.directory / f"{name}.log", env)

    def run_module(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a Python module with a log of its own."""
        return self.run(name, sys.executable, "-m", *argv, **env)

    def open(self) -> None:
        """Start all services and sidecars, and wait until they are ready.  Raises `ShopError`."""
        for place in self.places:
            for port in place[2:]:
                if not processes.is_free(HOST, port):
                    other = f"SHOP_PORT={port + 1000} sidecar demo shop"
                    raise ShopError(f"port {port} is in use; free it, or choose others: {other}")
        shared = {**self.start_redis(), **self.start_collector()}
        called = ("orders", "inventory-1", "inventory-2", "payments", "prices")
        others = {name.upper().replace("-", "_"): self.url(name) for name in called}
        for place in self.places:
            address = f"{HOST}:{place.app}"
            service = ("sidecar.demo.shop.service", place.role, "--outbound", f"http://{HOST}:{place.outbound}")
            program = ("sidecar.demo.prices",) if place.role == "prices" else service
            self.others.append(self.run_module(place.name, *program, "--address", address))
            env = {
                "INBOUND": f"{HOST}:{place.inbound}",
                "OUTBOUND": f"{HOST}:{place.outbound}",
                "ADMIN": f"{HOST}:{place.admin}",
                "APP": f"http://{HOST}:{place.app}",
                **shared,
                "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={place.name}",
            }
            path = str(examples.find(f"shop/{place.role}.yaml"))
            self.sidecars.append(self.run_module(f"{place.name}-sidecar", "sidecar", "run", path, **env, **others))
        self.wait_until_ready()

    def start_redis(self) -> dict[str, str]:
        """Start Redis if it is installed; return environment variables for the sidecars."""
        if (redis := shutil.which("redis-server")) is None:
            print("without Redis: redis-server is not installed; the caches have no shared tier")
        else:
            options = ("--port", str(self.redis), "--bind", HOST, "--save", "", "--appendonly", "no")
            self.others.append(self.run("redis", redis, *options))
        return {"REDIS_URL": f"redis://{HOST}:{self.redis}/0"}

    def start_collector(self) -> dict[str, str]:
        """Start a collector if one is installed and needed; return environment variables for the sidecars."""
        if os.environ.get(ENDPOINT):
            return {}
        if why := collector.obstacle():
            print(f"without a collector: {why}; no traces are sent (pip install rotel, or set {ENDPOINT})")
            return {}
        grpc = f"{HOST}:{self.redis + 2}"
        self.others.append(self.run("collector", *collector.command(grpc, self.collector)))
        return {ENDPOINT: f"http://{self.collector}", "OTEL_BSP_SCHEDULE_DELAY": "1000"}

    def wait_until_ready(self) -> None:
        """Wait until all services and sidecars answer.  Raises `ShopError`."""
        # Until the service of prices listens, its health check keeps its sidecar from being ready.
        waiting = [(p.app, "/healthz") for p in self.places if p.role != "prices"] + [
            (p.admin, "/readyz") for p in self.places
        ]
        give_up = time.monotonic() + READY_WITHIN
        while waiting := [(port, path) for port, path in waiting if get(port, path) != 200]:
            ended = [child.args for child in (*self.others, *self.sidecars) if child.poll() is not None]
            if ended or time.monotonic() > give_up:
                state = f"no answer of {waiting}" if not ended else f"ended: {ended}"
                raise ShopError(f"the shop is not ready: {state}; the logs:\n{self.logs()}")
            time.sleep(0.05)

    def serve(self) -> None:
        """Start requests and faults, print the addresses of the live pages, and wait for Ctrl-C."""
        apps = [f"http://{HOST}:{place.app}" for place in self.places if place.role in ("payments", "inventory")]
        traffic = "sidecar.demo.shop.traffic"
        self.traffic.append(self.run_module("customers", traffic, "load", self.url("web")))
        self.traffic.append(self.run_module("trouble", traffic, "trouble", *apps))
        print("the shop is open; once a minute one of its services fails or is slow for 20 s\n")
        print(f"  curl -i {self.url('web')}/orders/7")
        print(f"  curl -i {self.url('web')}/v1/prices/tea   the same gRPC service that orders call, as JSON")
        print(f"  curl -i -H 'Authorization: Bearer {TOKEN}' \\")
        print(f"    {self.url('web')}/profile   one answer of three services")
        for place in self.places:
            print(f"  http://{HOST}:{place.admin}/   the live page of the sidecar beside {place.name}")
        print("the pages ask for the token: shop-demo-token; in a terminal:")
        print(f"  sidecar top {HOST}:{self.places[0].admin} --token shop-demo-token")
        print(f"logs are in {self.directory}\nCtrl-C closes it.", flush=True)
        self.sidecars[0].wait()

    def close(self) -> int:
        """Stop all processes, and return the highest exit code of the sidecars.

        Sidecars end from the front to the back, so that requests in flight are still answered.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for child in self.traffic:
            processes.stop(child, 2.0)
        codes = [processes.stop(sidecar, DRAIN_WITHIN) for sidecar in self.sidecars]
        if (log := self.directory / "collector.log").exists():
            print(f"the collector has received {collector.received(log)} spans")
        for other in self.others:
            processes.stop(other, 2.0)
        return max(codes, default=0)

    def logs(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(self.directory.glob("*.log")))


def get(port: int, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> int:
    """Return the status of a GET; 0 without a response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def interrupt(*_: object) -> None:
    """End the shop on SIGTERM in the same way as on Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    directory = Path(tempfile.mkdtemp(prefix="sidecar-shop-"))
    shop = Shop(int(os.environ.get("SHOP_PORT", "18000")), directory)
    code = 0
    try:
        shop.open()
        status = get(shop.places[0].inbound, "/orders/7", SAMPLED)
        print(f"GET /orders/7 through six sidecars: {status}")
        price = get(shop.places[0].inbound, "/v1/prices/tea", SAMPLED)
        print(f"GET /v1/prices/tea of the gRPC service, as JSON: {price}")
        profile = get(shop.places[0].inbound, "/profile", {**SAMPLED, "Authorization": f"Bearer {TOKEN}"})
        print(f"GET /profile of a customer, made of three services: {profile}")
        code = 0 if status == price == profile == 200 else 1
        if os.environ.get("SHOP_ONCE") != "1":
            shop.serve()
    except KeyboardInterrupt:
        print("\nclosing ...", flush=True)
    except ShopError as trouble:
        print(f"shop: {trouble}", file=sys.stderr)
        code = 1
    finally:
        code = shop.close() or code
        shutil.rmtree(directory, ignore_errors=True)
    return code
