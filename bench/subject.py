"""Sidecar process under measurement, with policies that can be rewritten."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench import machine
from bench.peers import sidecar
from bench.scenarios import wait_until_up

PATIENCE: Final = 30.0


class Subject:
    """Running sidecar: `with Subject(policies, directory) as subject: ...`.

    The policies are a mapping, written as JSON, which is YAML; listeners and admin are added.  The sidecar is
    up when a GET of `probe` is answered with 200.
    """

    def __init__(self, policies: Mapping[str, Any], directory: Path, probe: str, argv: tuple[str, ...] = ()) -> None:
        self.port = machine.free_port()
        self.admin_port = machine.free_port()
        self.path = directory / "policies.yaml"
        self.log = directory / "sidecar-output"
        self.write(json.dumps(self.whole(policies), indent=2))
        self.process = machine.spawn(
            [*(argv or sidecar(sys.executable, "run")), str(self.path)], machine.cores()[0], self.log
        )
        self._probe = probe

    def whole(self, policies: Mapping[str, Any]) -> dict[str, Any]:
        """Return the policies with the addresses of this process."""
        return {
            "version": 1,
            "service": "bench",
            "listeners": {"inbound": {"address": f"127.0.0.1:{self.port}"}},
            "admin": {"address": f"127.0.0.1:{self.admin_port}"},
            **policies,
        }

    def __enter__(self) -> Subject:
        if not wait_until_up(self.port, self._probe):
            machine.end(self.process)
            raise SystemExit(f"the sidecar does not answer; its output:\n{self.log.read_text()[-4000:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        machine.end(self.process)

    @property
    def pid(self) -> int:
        return self.process.pid

    def write(self, text: str) -> None:
        """Replace the policy file atomically, as editors do."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def ask(self, method: str, target: str) -> tuple[int, bytes]:
        """Send one request to the admin listener; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=PATIENCE)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """Return the admin listener's `/state`."""
        document: dict[str, Any] = json.loads(self.ask("GET", "/state")[1])
        return document
