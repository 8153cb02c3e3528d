"""`sidecar run` with names that a scenario resolves: `python -m chaos.cluster.sidecar_process POLICIES NAMES`.

Only the look-up of names differs from the command.  NAMES is a JSON file that is read for each look-up:
`{"payments.test": {"addresses": ["127.0.0.1"], "delay": 0, "fail": false}}`.  Other names are
looked up at the system's name servers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from sidecar import app
from sidecar.upstream.resolver import Ask, LookupFailedError, NameResolver, Queries, Resolver, Servers


def look_up(path: Path, name: str) -> dict[str, Any] | None:
    """Return the entry of a name in the file, None where there is none."""
    table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return table.get(name)


def with_names(path: Path, others: Ask) -> Ask:
    """Return a look-up that reads the file first, then asks `others`.

    Answers of the file have a time to live of 0, so they are used for `resolve.ttl.min`.
    """

    async def ask(name: str, family: str, is_fresh: bool) -> Any:
        entry = look_up(path, name)
        if entry is None:
            return await others(name, family, is_fresh)
        await asyncio.sleep(entry.get("delay", 0.0))
        if entry.get("fail"):
            raise LookupFailedError("the name does not exist", is_denied=True)
        return [(address, 0.0) for address in entry["addresses"]]

    return ask


async def serve(policies: str, path: Path) -> int:
    """Serve the policies, and return the exit code."""
    queries = Queries()
    resolver = Resolver(time.monotonic, asyncio.create_task, with_names(path, Servers(queries)))
    return await app.supervise_or_serve(policies, NameResolver(resolver, queries))


def main() -> None:
    try:
        import uvloop

        loop: Any = uvloop.new_event_loop
    except ImportError:
        loop = None
    with asyncio.Runner(loop_factory=loop) as runner:
        code = runner.run(serve(sys.argv[1], Path(sys.argv[2])))
    sys.exit(code)


if __name__ == "__main__":
    main()
