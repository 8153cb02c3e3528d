"""Commands of this program in processes of their own: with the lowest priority, and a bound on time and output.

So work that takes seconds, such as `sidecar diff`, cannot block the loop, whatever it is given.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sidecar.core.env import Env

MOST_OUTPUT: Final = 1024 * 1024
"""Most bytes of the output of a command that are used."""
SECONDS: Final = 30.0
"""Longest time of a command."""
LOWEST: Final = 19
"""Priority of the processes."""


class NotDoneError(Exception):
    """Reason for which nothing was computed: HTTP status, and what would be right."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def output_of(env: Env, directory: str, module: str, arguments: Sequence[str]) -> bytes:
    """Return what a command of a module of this program prints, errors included.  Raises `NotDoneError`.

    Relative paths of files are relative to `directory`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, *arguments, cwd=directory,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    timer = env.call_later(SECONDS, process.kill)
    try:
        with suppress(ProcessLookupError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST)
        assert process.stdout is not None
        found = b""
        while piece := await process.stdout.read(2**16):
            found += piece
            if len(found) > MOST_OUTPUT:
                raise NotDoneError(503, "the result is too long; try less at once")
        if await process.wait() < 0:
            raise NotDoneError(503, f"the command has taken more than {SECONDS:g} s; try again later, or less at once")
        return found
    finally:
        timer.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
