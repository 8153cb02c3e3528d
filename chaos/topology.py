"""Wiring of one arm: which parts it has, in which order they start, and where their calls go.

    load -> [link] -> [sidecar] -> service -> [its sidecar's outbound] -> [link] -> [sidecar] -> service

1. In the bare arm a service calls its peers directly, with its own naive timeouts and retries.
2. With sidecars it calls the outbound listener of its own sidecar, where it has one, and leaves retries to that.  A
   captured service dials its peers all the same, and its connections are redirected.
3. A link stands in front of each replica that a fault on the wire strikes, in every arm alike.

Not here: the times of faults (`timeline`), and how a part is started and commanded (`cluster`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from chaos.cluster.base import Addresses, Cluster
from chaos.scenario import files
from chaos.scenario.files import Loaded
from chaos.scenario.spec import RECOMMENDED, NamesFault, Scenario, TcpFault, levels
from sidecar.config.files import Source

NOWHERE: Final = "127.0.0.9"
"""Loopback address without a listener."""
LOAD: Final = "load"
COLLECTOR: Final[dict[str, Any]] = {
    "workers": 8, "queue": 64, "work": [{"path": "/", "median": 0.001}], "address": "127.0.0.1:0",
}  # fmt: skip


def sidecar_of(replica: str) -> str:
    """Return the name of a replica's sidecar."""
    return f"{replica}-sidecar"


def link_of(replica: str) -> str:
    """Return the name of the link in front of a replica."""
    return f"{replica}-link"


class Topology:
    """Parts of one arm.

    - `without`: True if the decisive blocks of the policies are taken out.
    - `specs`: what each replica was started with.
    - `address`, `ingress`, `link`: by replica, its own address, where others reach it, and the link in front.
    - `sidecars`: addresses of the sidecar of each replica; `env`: variables of its policies.
    """

    def __init__(self, loaded: Loaded, arm: str, cluster: Cluster, without: bool = False) -> None:
        self.loaded = loaded
        self.scenario: Scenario = loaded.scenario
        self.arm = arm
        self.cluster = cluster
        self.without = without
        self.specs: dict[str, dict[str, Any]] = {}
        self.address: dict[str, str] = {}
        self.ingress: dict[str, str] = {}
        self.link: dict[str, str] = {}
        self.sidecars: dict[str, Addresses] = {}
        self.env: dict[str, dict[str, str]] = {}

    def replicas(self, service: str) -> list[str]:
        """Return the names of a service's replicas; a store has one."""
        return self.scenario.replicas(service)

    def has_sidecar(self, service: str) -> bool:
        return self.arm != "bare" and service in self.scenario.policies

    def processes(self, service: str, replica: str, of: str) -> list[str]:
        """Return the names of a replica's processes: `of` is `service`, `sidecar` or `both`.  The sidecar is first, so
        that what is in flight is answered before the service ends."""
        found = []
        if of != "service" and self.has_sidecar(service):
            found.append(sidecar_of(replica))
        if of != "sidecar":
            found.append(replica)
        return found

    # ----- start

    async def start(self) -> None:
        """Start all parts, those that are called before their callers, and wire them up."""
        scenario = self.scenario
        self.resolve(None)
        services = [
            (replica, _service(scenario, name)) for name in scenario.services for replica in self.replicas(name)
        ]
        await asyncio.gather(
            self.cluster.start("load", LOAD, _load(scenario)),
            *(self._start("service", replica, spec) for replica, spec in services),
            *(self._start("store", name, {}) for name in scenario.stores),
            *(self._start("service", name, COLLECTOR) for name in scenario.collectors),
            *(
                self._start("kubernetes", name, {"service": service, "address": "127.0.0.1:0", "endpoints": {}})
                for name, service in scenario.api_servers.items()
            ),
        )
        linked = {fault.on for fault in scenario.faults if isinstance(fault, TcpFault)}
        await asyncio.gather(*(self._start_link(replica) for name in sorted(linked) for replica in self.replicas(name)))
        for level in levels(scenario):
            await asyncio.gather(
                *(self._start_sidecar(name, r) for name in level for r in self.replicas(name) if self.has_sidecar(name))
            )
        for api, service in scenario.api_servers.items():
            for replica in self.replicas(service):
                await self._tell_api(api, replica, "ready")
        for replica, address in self.link.items():
            await self.cluster.tell(link_of(replica), "target", target=self.ingress[replica])
            self.ingress[replica] = address
        for name in scenario.services:
            for replica in self.replicas(name):
                await self._wire(name, replica)

    async def begin_load(self, at: float, seconds: float) -> None:
        """Begin the load at an instant, for so many seconds."""
        targets = {spec.to: self._addresses_of(spec.to) for spec in self.scenario.load.values()}
        await self.cluster.tell(LOAD, "run", targets=targets, at=at, seconds=seconds)

    async def _start(self, kind: str, replica: str, spec: dict[str, Any]) -> None:
        warm = {**spec, "warm_up": 0.0}  # only a restart is cold: the quiet phase has to be quiet
        (address,) = await self.cluster.start(kind, replica, warm)
        self.specs[replica] = {**spec, "address": address}
        self.address[replica] = self.ingress[replica] = address

    async def _start_link(self, replica: str) -> None:
        (self.link[replica],) = await self.cluster.start("link", link_of(replica), {"target": self.ingress[replica]})

    async def _start_sidecar(self, service: str, replica: str) -> None:
        env = self.env.setdefault(replica, self._environ(service, replica))
        known = self.sidecars.get(replica)
        if known is not None:  # started before: on the same addresses
            env |= {"INBOUND": known.inbound, "OUTBOUND": known.outbound, "ADMIN": known.admin}
        addresses = await self.cluster.start_sidecar(sidecar_of(replica), self._policies(service, env), env)
        if known is None:
            self.sidecars[replica] = addresses
            self.ingress[replica] = addresses.inbound or self.address[replica]

    async def _wire(self, service: str, replica: str) -> None:
        """Send a replica the addresses for its calls."""
        called = {call.to for work in self.scenario.services[service].work.values() for call in work.calls}
        sidecar = self.sidecars.get(replica)
        outbound = sidecar.outbound if sidecar is not None else ""
        if outbound and service in self.scenario.captured:
            redirected = self.cluster.redirected
            peers = {name: redirected(sidecar_of(replica), self._addresses_of(name)) for name in called}
        else:
            peers = {name: [outbound] if outbound else self._addresses_of(name) for name in called}
        await self.cluster.tell(replica, "wire", peers=peers, keeps_retries=not outbound)

    def _addresses_of(self, service: str) -> list[str]:
        """Return the addresses at which a service is reached: those of links, sidecars or the service itself."""
        return [self.link.get(replica, self.ingress[replica]) for replica in self.replicas(service)]

    def _policies(self, service: str, env: dict[str, str]) -> Sequence[Source]:
        sources = files.policies(self.loaded, service)
        if self.arm == RECOMMENDED:
            return files.recommended(sources, env, self.loaded.values)
        blocks = self.scenario.decisive.get(service, []) if self.without else []
        return files.without(sources, blocks, env) if blocks else sources

    def _environ(self, service: str, replica: str) -> dict[str, str]:
        env = {"APP": self.address[replica], "SERVICE": service, "EXAMPLES": self.cluster.examples()}
        scenario = self.scenario
        names = (*scenario.services, *scenario.stores, *scenario.collectors, *scenario.api_servers)
        for name in names:
            if name == service or any(each not in self.ingress for each in self.replicas(name)):
                continue
            addresses = self._addresses_of(name)
            env[name.upper()] = addresses[0]
            env |= {f"{name.upper()}_{number}": address for number, address in enumerate(addresses)}
            env[f"{name.upper()}_PORT"] = addresses[0].rpartition(":")[2]
        return env

    # ----- effects of a fault

    async def restart(self, service: str, replica: str, of: str) -> None:
        """Start the processes of a replica that have ended, on the addresses that they had."""
        if of != "sidecar":
            kind = "store" if service in self.scenario.stores else "service"
            kind = "kubernetes" if service in self.scenario.api_servers else kind
            await self.cluster.start(kind, replica, self.specs[replica])
            if service in self.scenario.services:
                await self._wire(service, replica)
        if of != "service" and self.has_sidecar(service):
            await self._start_sidecar(service, replica)
        await self.announce(service, replica, "ready")

    async def announce(self, service: str, replica: str, state: str) -> bool:
        """Tell the API servers the state of a replica: `ready`, `terminating` or `gone`.  False if none lists it."""
        apis = [api for api, listed in self.scenario.api_servers.items() if listed == service]
        for api in apis:
            await self._tell_api(api, replica, state)
        return bool(apis)

    async def _tell_api(self, api: str, replica: str, state: str) -> None:
        address = self.ingress[replica]
        self.specs[api]["endpoints"][replica] = [address, state]  # also for a later restart
        await self.cluster.tell(api, "endpoint", replica=replica, address=address, state=state)

    async def push(self, service: str, replica: str, file: str | None) -> None:
        """Give the sidecar of a replica another policy file, seen from the scenario; None for its own policies."""
        if not self.has_sidecar(service):
            return
        sources = self._policies(service, self.env[replica])
        if file is not None:
            path = self.loaded.path.parent / file
            sources = [Source(path.name, path.read_bytes())]
        await self.cluster.push(sidecar_of(replica), sources)

    def resolve(self, fault: NamesFault | None) -> None:
        """Have the names of services resolve as a fault says; None for as they should."""
        named = sorted({each.on for each in self.scenario.faults if isinstance(each, NamesFault)})
        table: dict[str, Any] = {f"{name}.test": {"addresses": ["127.0.0.1"]} for name in named}
        if fault is not None:
            entry = table[f"{fault.on}.test"]
            entry["fail"] = fault.fault == "names_fail"
            entry["delay"] = fault.by
            if fault.fault == "names_wrong":
                entry["addresses"] = [NOWHERE]
            elif fault.fault == "names_stale":
                entry["addresses"] = [NOWHERE, *entry["addresses"]]
        self.cluster.names(table)


def _service(scenario: Scenario, name: str) -> dict[str, Any]:
    """Return the settings of a service's part."""
    spec = scenario.services[name]
    work = [
        {
            "path": path, "median": each.time, "spread": each.spread, "body": each.body,
            "cache_control": each.cache_control, "answer": each.answer,
            "calls": [{**call.model_dump(), "tcp": _tcp(scenario, call.to)} for call in each.calls],
        }
        for path, each in spec.work.items()
    ]  # fmt: skip
    host = "127.0.0.1:0"
    return {
        "workers": spec.workers, "queue": spec.queue, "warm_up": spec.warm_up, "work": work, "address": host,
        "tcp": spec.tcp,
    }  # fmt: skip


def _tcp(scenario: Scenario, service: str) -> str:
    """Return the side that speaks first in a service's plain TCP; empty for HTTP."""
    return scenario.services[service].tcp if service in scenario.services else ""


def _load(scenario: Scenario) -> dict[str, Any]:
    """Return the settings of the load; its times count from the start of the warm-up."""
    phases = scenario.phases
    lead = phases.warm_up + phases.before
    classes = []
    for name, spec in scenario.load.items():
        changes = [{"at": c.at + lead, "rate": c.rate, "over": c.over} for c in spec.changes]
        classes.append({**spec.model_dump(exclude={"good_within"}), "name": name, "changes": changes})
    return {"classes": classes}
