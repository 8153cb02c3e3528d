"""Settings of all tests.  Property tests have no deadline: first imports or a busy machine would exceed one."""

import gc

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Exclude objects of imports and of pytest's collection, which last to the end, from garbage collection."""
    gc.collect()
    gc.freeze()
