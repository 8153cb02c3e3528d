"""A cluster of containers: the same parts and sidecars, each in a container of our image on a network of the engine.

With `shop_default`, the network of `docker-compose.yml`, they stand beside the shop and its tools.  A container is a
`docker run` that stays attached, so that a part is told what to do by its stdin and heard by its stdout as a process
is; containers reach each other by name.  Faults on the wire are links, which are containers too, and nothing needs
privileges.  The engine has to run on this machine's kernel, whose clock the parts share; names are the engine's, so no
fault can play with them, and Envoy is not in the image.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.cluster.base import Addresses, ClusterError
from chaos.cluster.local import PAGE, Local, Process
from chaos.parts.part import Row
from chaos.scenario.spec import NamesFault, Scenario
from sidecar.config.files import Source

IMAGE: Final = "resilience-sidecar"
ANYWHERE: Final = "0.0.0.0"
MOUNT: Final = "/run/chaos"
ENGINES: Final = ("docker", "podman")
END: Final = {"kill": "kill", "drain": "stop", "stop": "pause", "continue": "unpause"}


def engine() -> str:
    """The engine's command.  Raises `ClusterError` where there is none."""
    for name in ENGINES:
        if (found := shutil.which(name)) is not None:
            return found
    raise ClusterError("containers need docker or podman on the PATH; leave --network out to run processes instead")


def suits(scenario: Scenario) -> bool:
    """Can it be run in containers?"""
    return not any(isinstance(fault, NamesFault) for fault in scenario.faults)


class Containers(Local):
    """The cluster."""

    def __init__(
        self, directory: Path, report: Callable[[Row], None], seed: int, arm: str, most_memory: int, network: str
    ) -> None:
        super().__init__(directory, report, seed, arm, most_memory)
        self.network = network
        self.engine = engine()
        self.pids: dict[str, int] = {}
        directory.parent.chmod(0o755)  # whoever a container runs as reads its policies there

    def container(self, name: str) -> str:
        """The name of a part's container, which is its host name too."""
        return f"chaos-{os.getpid()}-{self.arm}-{name.replace('.', '-')}"

    def _process(self, name: str, argv: Sequence[str], env: Mapping[str, str], hear: Callable[[str], None]) -> Process:
        settings = [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
        if (
            "chaos.cluster.node" in argv
        ):  # a part does not listen to SIGTERM, which the first process has to; a sidecar does
            settings.append("--init")
        command = [
            self.engine, "run", "--rm", "--interactive", "--name", self.container(name),
            "--network", self.network, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
            "--volume", f"{self.directory}:{MOUNT}:ro", *settings, "--entrypoint", "python", IMAGE, *argv,
        ]  # fmt: skip
        return Process(name, command, {}, hear)

    def _seen(self, path: Path) -> str:
        return f"{MOUNT}/{path.relative_to(self.directory)}"

    def host(self, name: str) -> str:
        """Where others reach a part."""
        return self.container(name)

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        inside = {**spec, "host": ANYWHERE, "address": _anywhere(spec.get("address", ""))}
        addresses = await super().start(kind, name, inside)
        return [self._outside(name, address) for address in addresses]

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        listening = {key: _anywhere(env.get(key, "")) for key in ("INBOUND", "OUTBOUND", "ADMIN")}
        found = await super().start_sidecar(name, sources, {**env, **listening})
        self.pids[name] = int(await self._do("inspect", "--format", "{{.State.Pid}}", self.container(name)) or 0)
        return Addresses(*(self._outside(name, address) for address in found))

    def _outside(self, name: str, address: str) -> str:
        return f"{self.host(name)}:{address.rpartition(':')[2]}" if address else ""

    def names(self, table: dict[str, Any]) -> None:
        """Names are the engine's."""

    async def end(self, name: str, how: str) -> None:
        await self._do(END[how], self.container(name))
        if how in ("kill", "drain"):
            await (self.sidecars.get(name) or self.processes[name]).end(3.0)

    def sample(self) -> None:
        """Memory as the kernel tells it of a container's first process; an engine elsewhere tells nothing."""
        for name, pid in self.pids.items():
            try:
                memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            except (OSError, IndexError):
                continue
            if memory > self.most_memory:
                raise ClusterError(f"{name} has grown to {memory / 2**20:.0f} MiB, more than the guard allows")
            self.report(("sample", name, self.now(), 0, 0, 0, memory))

    async def close(self) -> None:
        await super().close()
        left = [self.container(name) for name in (*self.sidecars, *self.processes)]
        if left:  # those whose `docker run` was killed before it could pass that on
            await self._do("rm", "--force", *left)

    async def _do(self, *command: str) -> str:
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        child = await asyncio.create_subprocess_exec(self.engine, *command, stdout=pipe, stderr=nowhere)
        output, _ = await child.communicate()
        return output.decode().strip()


def _anywhere(address: str) -> str:
    """The same port of every address that the container has."""
    return f"{ANYWHERE}:{address.rpartition(':')[2] or 0}"
