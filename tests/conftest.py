"""Property tests have no deadline: what a first run imports, or a busy machine, says nothing about the code."""

import gc

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Leave what imports and collection made, which lives to the end, out of every collection to come."""
    gc.collect()
    gc.freeze()
