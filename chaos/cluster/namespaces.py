"""Cluster of processes in network namespaces, for captured services: the kernel redirects their connections.

    world    load, links and all other parts
    pod      one for each replica of a captured service, with its sidecar and the rules of `sidecar capture`

1. All namespaces are joined by a bridge, and none of them has a way out.  They end with the processes that hold them,
   and the host's own network is left alone.
2. Sidecars of pods run as another user than their services, whose connections the rules exempt, as in a cluster.
3. It needs root, and the programs of `NEEDED`: `obstacle` tells what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.cluster.base import Addresses, ClusterError
from chaos.cluster.local import ROOT, ChildProcess, Local
from chaos.parts.part import Row
from sidecar.config.files import Source
from sidecar.process.children import tied_to_parent

NEEDED: Final = ("ip", "nft", "nsenter", "setpriv", "unshare")
"""Programs that a run starts."""
USER: Final = "65532"
"""User of the sidecars."""
AS_USER: Final = (
    "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--pdeathsig", "TERM",
    "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search",  # to read an interpreter and files of root
)  # fmt: skip
WORLD: Final = "10.89.0.1"
"""Address of all parts outside of pods."""
OUTBOUND: Final = "127.0.0.1:15001"
"""Address of outbound listeners: rules need a port that is known."""
HOLD: Final = ("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity")
SIDECAR: Final = "-sidecar"
"""End of the name of a sidecar, behind the name of its replica."""


def obstacle() -> str:
    """Return why captured services cannot run here; empty if they can."""
    if missing := [each for each in NEEDED if shutil.which(each) is None]:
        return f"needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root"
    probe = "ip link add hub type bridge && ip link add here type veth peer name there && nft add table inet a"
    done = subprocess.run(["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"needs network namespaces: {done.stderr.strip()}"


class Namespaces(Local):
    """Cluster of processes in namespaces.

    - `pods`: addresses of the captured replicas, by name.
    - `holders`: processes that hold the namespaces, by pod; that of the world is under an empty name.
    """

    def __init__(
        self,
        directory: Path,
        report: Callable[[Row], None],
        seed: int,
        arm: str,
        max_memory: int,
        captured: Sequence[str],
    ) -> None:
        super().__init__(directory, report, seed, arm, max_memory)
        self.pods = {name: f"10.89.0.{number}" for number, name in enumerate(captured, 2)}
        self.holders: dict[str, asyncio.subprocess.Process] = {}
        self._laying: asyncio.Task[None] | None = None

    async def _lay_network(self) -> None:
        """Make the namespaces and join them; further calls wait for the first."""
        if self._laying is None:
            self._laying = asyncio.create_task(self._make_namespaces())
        await self._laying

    async def _make_namespaces(self) -> None:
        for name in ("", *self.pods):
            pipe = asyncio.subprocess.PIPE
            holder = await asyncio.create_subprocess_exec(*HOLD, stdout=pipe, preexec_fn=tied_to_parent())
            self.holders[name] = holder
            assert holder.stdout is not None
            if not await holder.stdout.readline():
                raise ClusterError("a network namespace could not be made; chaos run needs root for captured services")
        lines = [
            "set -e",
            "ip link add hub type bridge",
            f"ip addr add {WORLD}/24 dev hub",
            "ip link set hub up",
        ]
        for number, (name, address) in enumerate(self.pods.items()):
            inside = f"nsenter --net={self._namespace(name)} ip"
            lines += [
                f"ip link add pod{number} master hub type veth peer name eth0 netns {self.holders[name].pid}",
                f"ip link set pod{number} up",
                f"{inside} addr add {address}/24 dev eth0",
                f"{inside} link set eth0 up",
            ]
        await self._run([*self._within(""), "sh", "-c", "\n".join(lines)], {})

    def _namespace(self, pod: str) -> str:
        return f"/proc/{self.holders[pod].pid}/ns/net"

    def _within(self, pod: str) -> list[str]:
        """Return the beginning of a command in a namespace."""
        return ["nsenter", f"--net={self._namespace(pod)}"]

    async def _run(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Run a command to its end.  Raises `ClusterError` if it fails."""
        output = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=asyncio.subprocess.STDOUT, cwd=ROOT, env={**os.environ, **env},
            preexec_fn=tied_to_parent(),
        )  # fmt: skip
        said, _ = await child.communicate()
        if child.returncode:
            raise ClusterError(f"{' '.join(command)} failed:\n{said.decode(errors='replace').strip()}")

    def _python(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> ChildProcess:
        pod = name.removesuffix(SIDECAR)
        if pod not in self.pods:
            command = [*self._within(""), sys.executable]
        elif pod == name:
            command = [*self._within(pod), sys.executable]
        else:
            command = [*self._within(pod), *AS_USER, sys.executable]
        return ChildProcess(name, [*command, *argv], env, on_line)

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        await self._lay_network()
        host = self.pods.get(name, WORLD)
        port = str(spec.get("address", "")).rpartition(":")[2] or "0"
        return await super().start(kind, name, {**spec, "host": host, "address": f"{host}:{port}"})

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        host = self.pods.get(name.removesuffix(SIDECAR))
        if host is None:
            listening = dict.fromkeys(("INBOUND", "OUTBOUND"), f"{WORLD}:0")
            return await super().start_sidecar(name, sources, {**listening, **env})
        env = {"INBOUND": f"{host}:0", "OUTBOUND": OUTBOUND, **env}
        addresses = await super().start_sidecar(name, sources, env)
        policies = self._path_for_part(self.directory / name)
        command = [sys.executable, "-m", "sidecar", "capture", "--apply", "--uid", USER, policies]
        await self._run([*self._within(name.removesuffix(SIDECAR)), *command], env)
        return addresses

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self._laying is not None:
                self._laying.cancel()
            for holder in self.holders.values():
                with contextlib.suppress(ProcessLookupError):
                    holder.kill()
                await holder.wait()
