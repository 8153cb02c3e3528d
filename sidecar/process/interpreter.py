"""Settings of the interpreter: its garbage collector, imports, and switching between threads."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Final

SWITCH_SECONDS: Final = 0.00005
"""Longest time that a thread keeps the interpreter while another thread waits for it."""
PAUSE_SECONDS: Final = 0.004
"""Length of one pause of a worker thread; shorter pauses slow requests down (`python -m bench.reload`)."""
OLD: Final = 50
"""Number of collections of the middle generation before one of the oldest."""


def prepare_imports() -> None:
    """Make imports cheaper.  Call it before the first import; `freeze_startup` turns the collector on again.

    Objects that an import makes are not garbage, so the collector is off meanwhile.  pydantic's search for plugins is
    off too: it reads the metadata of every installed distribution, and no plugin may change policy files.  So are
    gRPC's handlers of fork(2): they abort a process that is started while a call is under way.
    """
    gc.disable()
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def freeze_startup() -> None:
    """Exempt all imported objects from garbage collection, and turn the collector on.

    Modules and classes live as long as the process, and a full collection would visit them all while requests wait.
    Call this before policies are compiled: frozen objects are never collected, so a reload would leak the first
    snapshot.

    Only the threshold of the oldest generation is raised.  A full cache has many long-lived objects, and visiting them
    every second slows requests down.  Requests leave no cycles, so a full collection has little to free.
    """
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], OLD)
    gc.enable()


def share_interpreter() -> None:
    """Shorten the time for which a worker thread keeps the interpreter from the event loop.

    Policies are read in a worker thread.  With the default interval of the interpreter, each turn of the loop would
    wait noticeably long for it.  A short interval costs nothing while no other thread runs.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def yield_interpreter() -> None:
    """Pause the calling worker thread for `PAUSE_SECONDS`; never call it on the event loop.

    A computing thread takes the interpreter from the loop again and again, which delays requests by more than its own
    work.  With short steps and a pause after each, the loop waits for one step at most.
    """
    time.sleep(PAUSE_SECONDS)
