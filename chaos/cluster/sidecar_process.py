"""`sidecar run` with names that a scenario resolves: `python -m chaos.cluster.sidecar_process POLICIES NAMES`.

It differs from the command in the loop's `getaddrinfo` alone.  NAMES is a JSON file that is read for each look-up:
`{"payments.test": {"addresses": ["127.0.0.1"], "delay": 0, "fail": false}}`.  Other names are resolved by the system.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

from sidecar import app


def look_up(path: Path, name: str) -> dict[str, Any] | None:
    """Return the entry of a name in the file, None where there is none."""
    table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return table.get(name)


def with_names(base: type[asyncio.AbstractEventLoop], path: Path) -> type[asyncio.AbstractEventLoop]:
    """Return a class of loops that resolve names by the file first."""

    class Loop(base):  # type: ignore[misc, valid-type]
        async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
            entry = look_up(path, host)
            if entry is None:
                return await super().getaddrinfo(host, port, **how)
            await asyncio.sleep(entry.get("delay", 0.0))
            if entry.get("fail"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, (address, port)) for address in entry["addresses"]]

    return Loop


def main() -> None:
    try:
        import uvloop

        base: Any = uvloop.Loop
    except ImportError:
        base = asyncio.SelectorEventLoop
    loop = with_names(base, Path(sys.argv[2]))
    with asyncio.Runner(loop_factory=loop) as runner:
        code = runner.run(app.serve(sys.argv[1]))
    sys.exit(code)


if __name__ == "__main__":
    main()
