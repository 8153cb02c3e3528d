"""Cluster of containers: each part and sidecar in a container of our image, on a network of Docker or Podman.

1. On `shop_default`, the network of `docker-compose.yml`, they stand beside the shop and its tools.
2. A container is a `docker run` that stays attached, so that a part has stdin and stdout as a process has.  Containers
   reach each other by name.
3. Faults on the wire are links, which are containers too; nothing needs privileges.
4. The engine has to run on this machine's kernel, whose clock the parts share.

Not here: faults of names, which the engine resolves, captured services, and Envoy, which is not in the image.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.cluster.base import Addresses, ClusterError
from chaos.cluster.local import PAGE, ChildProcess, Local
from chaos.parts.part import Row
from chaos.scenario.spec import NamesFault, Scenario
from sidecar.config.files import Source
from sidecar.demo import examples

IMAGE: Final = "resilience-sidecar"
ANYWHERE: Final = "0.0.0.0"
MOUNT: Final = "/run/chaos"
ENGINES: Final = ("docker", "podman")
ENDINGS: Final = {"kill": "kill", "drain": "stop", "stop": "pause", "continue": "unpause"}


def engine() -> str:
    """Return the path of the engine's command.  Raises `ClusterError` where there is none."""
    for name in ENGINES:
        if (found := shutil.which(name)) is not None:
            return found
    raise ClusterError("containers need docker or podman on the PATH; leave --network out to run processes instead")


def is_possible(scenario: Scenario) -> bool:
    """True if a scenario can run in containers."""
    return not scenario.captured and not any(isinstance(fault, NamesFault) for fault in scenario.faults)


class Containers(Local):
    """Cluster of containers.

    - `pids`: process ids of the sidecars' containers, as the engine reports them.
    """

    def __init__(
        self, directory: Path, report: Callable[[Row], None], seed: int, arm: str, max_memory: int, network: str
    ) -> None:
        super().__init__(directory, report, seed, arm, max_memory)
        self.network = network
        self.engine = engine()
        self.pids: dict[str, int] = {}
        directory.parent.chmod(0o755)  # the user of a container reads its policies there

    def container(self, name: str) -> str:
        """Return the name of a part's container, which is its host name too."""
        return f"chaos-{os.getpid()}-{self.arm}-{name.replace('.', '-')}"

    def _python(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> ChildProcess:
        settings = [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
        if "chaos.cluster.node" in argv:
            settings.append("--init")  # the first process has to handle SIGTERM, and a part does not
        command = [
            self.engine, "run", "--rm", "--interactive", "--name", self.container(name),
            "--network", self.network, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
            "--volume", f"{self.directory}:{MOUNT}:ro", *settings, "--entrypoint", "python", IMAGE, *argv,
        ]  # fmt: skip
        return ChildProcess(name, command, {}, on_line)

    def _path_for_part(self, path: Path) -> str:
        return f"{MOUNT}/{path.relative_to(self.directory)}"

    def host(self, name: str) -> str:
        """Return the host at which others reach a part."""
        return self.container(name)

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        inside = {**spec, "host": ANYWHERE, "address": _on_all_addresses(spec.get("address", ""))}
        addresses = await super().start(kind, name, inside)
        return [self._address_for_others(name, address) for address in addresses]

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        listening = {key: _on_all_addresses(env.get(key, "")) for key in ("INBOUND", "OUTBOUND", "ADMIN")}
        found = await super().start_sidecar(name, sources, {**env, **listening})
        self.pids[name] = int(
            await self._run_engine("inspect", "--format", "{{.State.Pid}}", self.container(name)) or 0
        )
        return Addresses(*(self._address_for_others(name, address) for address in found))

    def _address_for_others(self, name: str, address: str) -> str:
        """Return the address at which others reach a part; empty if it has none."""
        return f"{self.host(name)}:{address.rpartition(':')[2]}" if address else ""

    def examples(self) -> str:
        copy = self.directory / "examples"
        if not copy.exists():
            shutil.copytree(examples.find(""), copy)
        return self._path_for_part(copy)

    def names(self, table: dict[str, Any]) -> None:
        """Do nothing: the engine resolves names."""

    async def end(self, name: str, how: str) -> None:
        await self._run_engine(ENDINGS[how], self.container(name))
        if how in ("kill", "drain"):
            await (self.sidecars.get(name) or self.processes[name]).end(3.0)

    def sample(self) -> None:
        """Report the memory of each container's first process; an engine on another machine has none to read."""
        for name, pid in self.pids.items():
            try:
                memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            except (OSError, IndexError):
                continue
            if memory > self.max_memory:
                raise ClusterError(f"{name} has grown to {memory / 2**20:.0f} MiB, more than the guard allows")
            self.report(("sample", name, self.now(), 0, 0, 0, memory))

    async def close(self) -> None:
        await super().close()
        left = [self.container(name) for name in (*self.sidecars, *self.processes)]
        if left:  # containers whose `docker run` was killed before it could end them
            await self._run_engine("rm", "--force", *left)

    async def _run_engine(self, *command: str) -> str:
        """Run a command of the engine, and return its output."""
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        child = await asyncio.create_subprocess_exec(self.engine, *command, stdout=pipe, stderr=nowhere)
        output, _ = await child.communicate()
        return output.decode().strip()


def _on_all_addresses(address: str) -> str:
    """Return the same port at every address of the container."""
    return f"{ANYWHERE}:{address.rpartition(':')[2] or 0}"
