"""Settings of all tests.  No property test is judged by the clock: first imports or a busy machine would exceed it."""

import gc
import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as `prepare_imports`

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Exclude objects of imports and of pytest's collection, which last to the end, from garbage collection."""
    gc.collect()
    gc.freeze()
