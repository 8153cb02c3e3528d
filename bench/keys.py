"""Memory of a key of limits: `python -m bench.keys [--keys 10000]`.

Each table gets so many keys under `tracemalloc`, as long as those of addresses, and the bytes that are then allocated
are divided by their number.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sidecar.leases.quota import QuotaAsk, QuotaLessee, QuotaTable
from sidecar.leases.rate import Ask, RateLessee, RateLessor
from sidecar.limits.gcra import Gcra
from sidecar.store.quota_file import QuotaFile
from sidecar.store.shared_quotas import Order

DAY: Final = 86_400.0


def key(number: int) -> str:
    """Return a key as long as an IPv4 address."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def of_rate_limit(keys: int) -> object:
    """Return the table of a rate limit of one process."""
    gcra = Gcra(1.0, 10.0, keys)
    for number in range(keys):
        found = gcra.locate(key(number), 0.0)
        gcra.charge(found, gcra.arrival(found, 0.0) + 1.0)
    return gcra


def of_rate_lessee(keys: int) -> object:
    """Return the leases of a rate limit in a store."""
    lessee = RateLessee(1.0, 10.0, 0.1, keys)
    for number in range(keys):
        lessee.take(key(number), 1.0, 0.0)
        lessee.wait(key(number), 1.0)
    lessee.collect(0.0, keys)
    return lessee


def of_rate_lessor(keys: int) -> object:
    """Return the accounts of a rate limit in the supervisor of workers."""
    lessor = RateLessor(1.0, 10.0, 0.1, keys)
    for number in range(keys):
        lessor.exchange(Ask(key(number), 1.0, 1.0, 1.0, 0.0, 0.0), 0.0)
    return lessor


def of_quota(keys: int) -> object:
    """Return the table of a quota without a store."""
    table = QuotaTable(10.0, keys)
    for number in range(keys):
        table.take(table.locate(key(number)), 1.0)
    return table


def of_quota_lessee(keys: int) -> object:
    """Return the leases of a quota in a store."""
    lessee = QuotaLessee(10.0, keys)
    lessee.roll(0.0)
    for number in range(keys):
        lessee.take(key(number), 1.0, 0.0)
        lessee.wait(key(number), 1.0)
    lessee.collect(0.0, keys)
    return lessee


TABLES: Final[dict[str, Callable[[int], object]]] = {
    "rate limit, this process": of_rate_limit,
    "rate limit, lease from a store": of_rate_lessee,
    "rate limit, account of the supervisor": of_rate_lessor,
    "quota, this process": of_quota,
    "quota, lease from a store": of_quota_lessee,
}
"""Functions that fill a table, by its name."""


def measure(fill: Callable[[int], object], keys: int) -> float:
    """Return the bytes of a key."""
    fill(100)
    gc.collect()
    tracemalloc.start()
    table = fill(keys)
    gc.collect()
    found, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table is not None
    return found / keys


def of_file(keys: int) -> float:
    """Return the bytes of a key in the file of a store."""

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "quotas.db"
        file: Any = QuotaFile(str(path), lambda: 0.0)
        asks = [QuotaAsk(key(number), 0.0, 1.0, 1.0, 0.0, 0.0, 0.0) for number in range(keys)]
        file._exchange("me", [Order("service:route:order:day", 10.0, keys, DAY, ask) for ask in asks], 0.0)
        file._close()
        return path.stat().st_size / keys


def main() -> None:
    """Print a table of the bytes of a key."""
    parser = argparse.ArgumentParser(description="Memory of a key of limits.")
    parser.add_argument("--keys", type=int, default=10_000)
    keys: int = parser.parse_args().keys
    print("| table | bytes a key |\n|---|---:|")
    for name, fill in TABLES.items():
        print(f"| {name} | {measure(fill, keys):.0f} |")
    print(f"| quota, in the file of a store | {of_file(keys):.0f} |")


if __name__ == "__main__":
    main()
