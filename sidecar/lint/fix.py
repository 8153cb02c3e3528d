"""Application of safe fixes to policy files: one scalar is replaced by another, and nothing else changes.

A fix is applied only where the file still has the old text at its place, and once for each place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sidecar.config.files import Source
from sidecar.lint.run import Finding, Fix

_END: Final = re.compile(r"(?=[\s,}\]#]|$)")
"""Matches the end of a plain scalar."""


def fixed(sources: Sequence[Source], findings: Iterable[Finding]) -> tuple[list[Source], list[Finding]]:
    """Return the files with all safe fixes applied, and the findings that were fixed."""
    lines = {source.name: source.text.decode("utf-8").splitlines(keepends=True) for source in sources}
    wanted = {each.fix.mark: each for each in findings if each.fix is not None}
    applied = []
    for _, finding in sorted(wanted.items(), reverse=True):  # from the end, so that columns before it stay right
        assert finding.fix is not None
        if _apply(lines[finding.fix.mark.file], finding.fix):
            applied.append(finding)
    changed = [Source(name, "".join(text).encode()) for name, text in lines.items()]
    return changed, applied[::-1]


def _apply(lines: list[str], fix: Fix) -> bool:
    """Replace one scalar; False if the file does not have the old text there."""
    number, column = fix.mark.line - 1, fix.mark.column - 1
    text = lines[number]
    for quote in ("", '"', "'"):
        old = f"{quote}{fix.old}{quote}"
        if text.startswith(old, column) and _END.match(text, column + len(old)):
            lines[number] = text[:column] + quote + fix.new + quote + text[column + len(old) :]
            return True
    return False


def write(sources: Sequence[Source], changed: Sequence[Source]) -> None:
    """Write the files that differ.  Raises `OSError`."""
    for old, new in zip(sources, changed, strict=True):
        if old.text != new.text:
            Path(new.name).write_bytes(new.text)
