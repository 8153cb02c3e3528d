"""Build report: tells whether this installation is pure or has its request path compiled.

A compiled wheel contains a list of its compiled modules (`hatch_build.py`).  Python prefers an extension to the source
beside it, so each listed extension that exists is the code that runs.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1]
"""Directory of the package `sidecar`."""
RECORD: Final = "engine/compiled.txt"
"""Path of the list of compiled modules, relative to the package."""
MARKS: Final = ("sidecar/engine/head.pyx", "sidecar/core/http1.py")
"""One module of each compiler, Cython and mypyc, to look for if there is no list."""


def describe_build(package: Path = PACKAGE) -> str:
    """Return `pure`, `compiled`, or a description of an incomplete build."""
    record = package / RECORD
    wanted = record.read_text().split() if record.exists() else []
    found = [name for name in wanted or MARKS if is_compiled(package.parent / name)]
    if not wanted and not found:
        return "pure"
    if found == wanted:
        return "compiled"
    if not wanted:
        return "partly compiled: extensions of another build lie beside the sources"
    return f"partly compiled: {len(found)} of {len(wanted)} modules"


def is_compiled(source: Path) -> bool:
    """True if there is an extension for this interpreter beside the source file."""
    return any(source.with_name(source.name.partition(".")[0] + suffix).exists() for suffix in EXTENSION_SUFFIXES)
