"""Values that the figures of the last hours suggest for the policies on disk: "what the data says" on the live page.

The command `recommend` computes them (`subcommand.py`).  The result is kept for `FRESH` seconds, and all who ask get
the same one.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from sidecar.admin.subcommand import NotDoneError, output_of
from sidecar.core.env import Env
from sidecar.telemetry.metrics.history import History

FRESH: Final = 60.0
"""Seconds for which a result is used again."""
FILE: Final = "history.json"


class AdviceSource:
    """Values for the policies at a path."""

    def __init__(self, path: str, env: Env) -> None:
        self._path = os.path.abspath(path)
        self._env = env
        self._result: dict[str, Any] | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def answer(self, history: History | None) -> dict[str, Any]:
        """Return the document of `sidecar recommend --json`, without its patch.  Raises `NotDoneError`."""
        if history is None:
            raise NotDoneError(404, "`admin.history` is off; leave it out of the policies to keep figures")
        async with self._lock:
            if self._result is None or self._env.now() >= self._until:
                self._result = await self._compute(history.document())
                self._until = self._env.now() + FRESH
            return self._result

    async def _compute(self, document: bytes) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sidecar-advice-") as directory:
            await asyncio.to_thread((Path(directory) / FILE).write_bytes, document)
            arguments = ["recommend", "--json", "--history", FILE, self._path]
            found = await output_of(self._env, directory, "sidecar", arguments)
        try:
            result: dict[str, Any] = json.loads(found)
        except ValueError:
            raise NotDoneError(503, found.decode(errors="replace").strip()) from None
        if not result["ok"]:
            raise NotDoneError(503, "the policies on disk have problems; `sidecar check` shows them")
        del result["patch"]
        return result
