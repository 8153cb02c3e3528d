"""Trial of policies that are not in force: their problems, what they change, the route of a request, and cascades.

The commands `check`, `diff`, `explain` and `chaos verdicts` run in processes of their own (`subcommand.py`), one trial
at a time.  Paths of files in the policies are relative to a directory of the trial, where nothing else is.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from sidecar.admin.subcommand import NotDoneError, output_of
from sidecar.core.env import Env

MOST_TEXT: Final = 256 * 1024
"""Most bytes of a request."""
FILE: Final = "policies.yaml"
"""Name of the file of a trial."""


class WhatIf:
    """Trials beside the policies at a path."""

    def __init__(self, path: str, env: Env) -> None:
        self._path = os.path.abspath(path)
        self._env = env
        self._is_busy = False

    async def answer(self, body: bytes) -> dict[str, Any]:
        """Return the result of a trial as JSON-ready values.

        `body` is `{"policies": TEXT, "method": "GET", "url": "/orders/7", "deep": false, "cascades": false}`; all but
        the first may be left out.  The result has `problems` as `sidecar check --json`, `diff` as `sidecar diff --json`
        or null if there are errors, `explained` as text or null without a URL, and `cascades` as `chaos verdicts
        --json` or null if they were not asked for.  Raises `NotDoneError`.
        """
        text, method, url, is_deep, has_cascades = _read(body)
        if self._is_busy:
            raise NotDoneError(503, "policies are being tried already; wait until that has ended")
        self._is_busy = True
        try:
            with tempfile.TemporaryDirectory(prefix="sidecar-what-if-") as directory:
                (Path(directory) / FILE).write_text(text)
                return await self._try(directory, method, url, is_deep, has_cascades)
        finally:
            self._is_busy = False

    async def _try(self, directory: str, method: str, url: str, is_deep: bool, has_cascades: bool) -> dict[str, Any]:
        checked = json.loads(await self._command(directory, "check", "--json", FILE))
        result = {"problems": checked["problems"], "diff": None, "explained": None, "cascades": None}
        if checked["ok"]:
            deep = ["--deep"] if is_deep else []
            changed = json.loads(await self._command(directory, "diff", "--json", *deep, self._path, FILE))
            result["diff"] = changed if "subjects" in changed else None
            if url:
                result["explained"] = (await self._command(directory, "explain", FILE, method, url)).decode()
            if has_cascades:
                found = await output_of(self._env, directory, "chaos.cli", ["verdicts", "--json", FILE])
                try:
                    result["cascades"] = json.loads(found)
                except ValueError:
                    words = found.decode(errors="replace").strip().rpartition("\n")[2]
                    raise NotDoneError(503, f"the cascades could not be simulated with these values: {words}") from None
        return result

    async def _command(self, directory: str, *arguments: str) -> bytes:
        """Return what a command of this program prints, errors included."""
        return await output_of(self._env, directory, "sidecar", arguments)


def _read(body: bytes) -> tuple[str, str, str, bool, bool]:
    """Return text, method and URL of a request, and whether margins and cascades are asked for."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        given = {"method": "GET", "url": "", "deep": False, "cascades": False} | document
        match given:
            case {
                "policies": str() as text, "method": str() as method, "url": str() as url,
                "deep": bool() as is_deep, "cascades": bool() as has_cascades,
            }:  # fmt: skip
                if not method.startswith("-") and not url.startswith("-"):
                    return text, method, url, is_deep, has_cascades
    raise NotDoneError(400, 'send JSON such as {"policies": "version: 1 ...", "method": "GET", "url": "/orders/7"}')
