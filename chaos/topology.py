"""The wiring of one arm: who is started, in which order, and where everyone's calls go.

    load -> [link] -> [sidecar] -> service -> [its sidecar's outbound] -> [link] -> [sidecar] -> service

In the bare arm a service calls its peers directly, with its own naive time-outs and retries.  With sidecars it calls
the outbound listener of its own, where it has one, and leaves retries to it.  A link stands in front of each replica
that a fault on the wire strikes, in every arm alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from chaos.cluster.base import Addresses, Cluster
from chaos.scenario import files
from chaos.scenario.files import Loaded
from chaos.scenario.spec import NamesFault, TcpFault, levels
from sidecar.config.files import Source

SIDECAR = "-sidecar"
LINK = "-link"


class Topology:
    """The parts of one arm."""

    def __init__(self, loaded: Loaded, arm: str, cluster: Cluster, without: bool = False) -> None:
        self.loaded = loaded
        self.scenario = loaded.scenario
        self.arm = arm
        self.cluster = cluster
        self.without = without
        """Are the decisive blocks of the policies taken out?"""
        self.specs: dict[str, dict[str, Any]] = {}
        self.address: dict[str, str] = {}
        """Of each replica, its own."""
        self.ingress: dict[str, str] = {}
        """Where others reach it."""
        self.link: dict[str, str] = {}
        self.proxies: dict[str, Addresses] = {}
        """By replica."""
        self.env: dict[str, dict[str, str]] = {}

    def replicas(self, service: str) -> list[str]:
        """The names of a service's replicas; a store has one."""
        spec = self.scenario.services.get(service)
        count = 1 if spec is None else spec.replicas
        return [service] if count == 1 else [f"{service}.{number}" for number in range(count)]

    def has_sidecar(self, service: str) -> bool:
        return self.arm != "bare" and service in self.scenario.policies

    # ----- start

    async def start(self) -> None:
        scenario = self.scenario
        services = [
            (name, replica, self.service_spec(name)) for name in scenario.services for replica in self.replicas(name)
        ]
        await asyncio.gather(
            self.cluster.start("load", "load", self.load_spec()),
            *(self._start("service", replica, spec) for _, replica, spec in services),
            *(self._start("store", name, {}) for name in scenario.stores),
            *(self._start("service", name, COLLECTOR) for name in scenario.collectors),
        )
        linked = {fault.on for fault in scenario.faults if isinstance(fault, TcpFault)}
        await asyncio.gather(*(self._start_link(replica) for name in sorted(linked) for replica in self.replicas(name)))
        for level in levels(scenario):
            await asyncio.gather(
                *(self.start_sidecar(name, r) for name in level for r in self.replicas(name) if self.has_sidecar(name))
            )
        for replica, address in self.link.items():
            await self.cluster.tell(replica + LINK, "target", target=self.ingress[replica])
            self.ingress[replica] = address
        for name in scenario.services:
            for replica in self.replicas(name):
                await self.wire(name, replica)

    async def _start(self, kind: str, replica: str, spec: dict[str, Any]) -> None:
        warm = {**spec, "warm_up": 0.0}  # only a restart is cold: the quiet phase is to be quiet
        (address,) = await self.cluster.start(kind, replica, warm)
        self.specs[replica] = {**spec, "address": address}
        self.address[replica] = self.ingress[replica] = address

    async def _start_link(self, replica: str) -> None:
        (self.link[replica],) = await self.cluster.start("link", replica + LINK, {"target": self.ingress[replica]})

    async def start_sidecar(self, service: str, replica: str) -> None:
        """Start the sidecar of a replica, again on the addresses that it had."""
        env = self.env.setdefault(replica, self._environ(service, replica))
        known = self.proxies.get(replica)
        if known is not None:
            env |= {"INBOUND": known.inbound, "OUTBOUND": known.outbound, "ADMIN": known.admin}
        addresses = await self.cluster.start_sidecar(replica + SIDECAR, self.sources(service, env), env)
        if known is None:
            self.proxies[replica] = addresses
            self.ingress[replica] = addresses.inbound or self.address[replica]

    def sources(self, service: str, env: dict[str, str]) -> Sequence[Source]:
        """The policy files of a service's sidecar, in this run."""
        sources = files.policies(self.loaded, service)
        blocks = self.scenario.decisive.get(service, []) if self.without else []
        return files.without(sources, blocks, env) if blocks else sources

    async def restart(self, service: str, replica: str) -> None:
        """Start a replica that has ended, on the address that it had."""
        await self.cluster.start(
            "store" if service in self.scenario.stores else "service", replica, self.specs[replica]
        )
        if service in self.scenario.services:
            await self.wire(service, replica)

    async def wire(self, service: str, replica: str) -> None:
        """Tell a replica where its calls go."""
        called = {call.to for work in self.scenario.services[service].work.values() for call in work.calls}
        proxy = self.proxies.get(replica)
        outbound = proxy.outbound if proxy is not None else ""
        peers = {name: [outbound] if outbound else self.addresses_of(name) for name in called}
        await self.cluster.tell(replica, "wire", peers=peers, keeps_retries=not outbound)

    def addresses_of(self, service: str) -> list[str]:
        """Where a service is reached: links, sidecars or the service itself."""
        return [self.link.get(replica, self.ingress[replica]) for replica in self.replicas(service)]

    # ----- what the parts are told

    def service_spec(self, name: str) -> dict[str, Any]:
        spec = self.scenario.services[name]
        work = [
            {
                "path": path, "median": each.time, "spread": each.spread, "body": each.body,
                "cache_control": each.cache_control, "calls": [call.model_dump() for call in each.calls],
            }
            for path, each in spec.work.items()
        ]  # fmt: skip
        host = "127.0.0.1:0"
        return {"workers": spec.workers, "queue": spec.queue, "warm_up": spec.warm_up, "work": work, "address": host}

    def load_spec(self) -> dict[str, Any]:
        phases = self.scenario.phases
        lead = phases.warm_up + phases.before
        classes = []
        for name, spec in self.scenario.load.items():
            changes = [{"at": c.at + lead, "rate": c.rate, "over": c.over} for c in spec.changes]
            classes.append({**spec.model_dump(exclude={"good_within"}), "name": name, "changes": changes})
        return {"classes": classes}

    def _environ(self, service: str, replica: str) -> dict[str, str]:
        env = {"APP": self.address[replica], "SERVICE": service}
        names = (*self.scenario.services, *self.scenario.stores, *self.scenario.collectors)
        for name in names:
            if name == service or any(each not in self.ingress for each in self.replicas(name)):
                continue
            addresses = self.addresses_of(name)
            env[name.upper()] = addresses[0]
            env |= {f"{name.upper()}_{number}": address for number, address in enumerate(addresses)}
            env[f"{name.upper()}_PORT"] = addresses[0].rpartition(":")[2]
        return env

    def named(self) -> list[str]:
        """Services whose name a fault plays with."""
        return sorted({fault.on for fault in self.scenario.faults if isinstance(fault, NamesFault)})


COLLECTOR: dict[str, Any] = {
    "workers": 8, "queue": 64, "work": [{"path": "/", "median": 0.001}], "address": "127.0.0.1:0",
}  # fmt: skip
