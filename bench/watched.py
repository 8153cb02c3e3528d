"""`sidecar run` that counts its objects on SIGRTMIN: `python -m bench.watched POLICIES`.

Writes `<POLICIES>.objects`, a JSON mapping of types of the sidecar, of asyncio and of uvloop to their number of
objects.  Objects from before the policies are compiled are not counted (`freeze_startup`).
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from sidecar.app import run

OURS: Final = ("sidecar.", "asyncio.", "_asyncio", "uvloop.")


def count(path: Path) -> None:
    """Write the number of live objects by type to a file."""
    gc.collect()
    found = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in map(type, gc.get_objects())
        if str(kind.__module__).startswith(OURS)
    )
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(found))
    fresh.replace(path)


if __name__ == "__main__":
    policies = Path(sys.argv[1])
    signal.signal(signal.SIGRTMIN, lambda *_: count(policies.with_suffix(".objects")))
    run(str(policies))
