"""How this installation was built: pure, or with its request path compiled.

A compiled wheel brings the list of what was compiled for it (`hatch_build.py`).  An extension takes precedence over the
source beside it, so what is on the list and there is what runs.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1]
"""Directory of the sidecar."""
RECORD: Final = "engine/compiled.txt"
MARKS: Final = ("sidecar/engine/head.pyx", "sidecar/core/http1.py")
"""Modules that are compiled by each of the compilers."""


def describe_build(package: Path = PACKAGE) -> str:
    """Return `pure` or `compiled`, or how far the installation is from either."""
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
    """True if this interpreter finds an extension beside a source file."""
    return any(source.with_name(source.name.partition(".")[0] + suffix).exists() for suffix in EXTENSION_SUFFIXES)
