"""Importing a library without what it would drag in.

pybreaker and aiocache import redis-py wherever it is installed, for storages that are not used here, or only when a
policy asks for one: at every start 0.1 to 0.5 s and 20 MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Within it an import of these modules fails as though they were not installed."""
    present = {name: sys.modules[name] for name in names if name in sys.modules}
    try:
        for name in names:
            sys.modules[name] = None  # type: ignore[assignment]  # how the import system is told so
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(present)
