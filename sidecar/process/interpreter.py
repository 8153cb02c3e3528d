"""Settings of the interpreter as a whole: its garbage collector, and how its threads share it."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Final

SWITCH_SECONDS: Final = 0.00005
"""How long a thread may compute before another one that wants the interpreter gets it."""
PAUSE_SECONDS: Final = 0.004
"""Shorter pauses are felt by requests: `python -m bench.reload` compares them."""
OLD: Final = 50
"""Collections of the middle generation before one of all."""


def prepare_imports() -> None:
    """Make imports cheaper.  Call it before the first of them; `freeze_startup` ends what it begins.

    Nothing that a module makes while it is imported is garbage, so the collector is off meanwhile.  pydantic would read
    the metadata of every installed distribution in search of plugins; policy files are not for a plugin to change.
    """
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def freeze_startup() -> None:
    """Take what the imports made out of the garbage collector's sight, and turn the collector on.

    Modules and classes live as long as the process.  A full collection would walk them all while nothing else runs.
    Call it before policies are compiled: what is frozen is never collected, and a reload would leak the first snapshot.

    Of the thresholds only the oldest generation's is raised.  A full cache has many objects that live long, and to walk
    them about once a second is felt where every answer is stored.  Requests leave no cycles behind, so little waits for
    a full collection; collections of the young are cheap.  What little garbage the imports leave is kept.
    """
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], OLD)
    gc.enable()


def share_interpreter() -> None:
    """Let no thread keep the loop waiting for the interpreter for long.

    Policies are read in a thread.  By default a thread that computes gives the interpreter up after 5 ms only, and each
    turn of the loop would wait so long for it.  Switching costs nothing while there is nobody to switch to.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def give_way() -> None:
    """Pause the thread that calls it, which must not be the loop's.

    A thread that computes takes the interpreter from the loop again and again, which costs requests more than the time
    that it works.  In steps well below a millisecond with a pause after each, the loop waits for one step at most.
    """
    time.sleep(PAUSE_SECONDS)
