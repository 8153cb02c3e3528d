"""Settings of all tests.  No property test is judged by the clock: first imports or a busy machine would exceed it."""

import gc
import importlib
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.forked import close_server

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as `prepare_imports`

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

gc.disable()  # until the tests are collected: nearly all objects of imports and of the collection last to the end


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the test modules of each of pytest-xdist's workers from another one on.

    All workers collect all tests in the same order.  In a new clone, which has no bytecode, each of them would rewrite
    the assertions of all modules; like this each finds most of what the others have written.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    root = session.config.rootpath
    modules = [path for place in session.config.args for path in sorted(Path(root, place).rglob("test_*.py"))]
    first = len(modules) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for path in modules[first:] + modules[:first]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
            except (Exception, pytest.skip.Exception):
                continue  # the collection imports it again and says why


def pytest_collection_finish() -> None:
    """Exclude objects of imports and of pytest's collection, which last to the end, from garbage collection."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """End the fork server."""
    close_server()
