"""Watch of files by their facts: a change is due once two looks find the same, so not while a file is being written.

Many programs write a file in place: they cut it off and write it piece by piece.  What is read meanwhile can be valid
and still be half of it, such as the first of many routes or keys.  So a changed file waits for a second look.

Files are looked at with `stat`, following links.  A watch by the kernel misses the renames by which Kubernetes replaces
mounted files.  A program that pauses between two pieces for longer than two looks are apart is not recognised; a file
that is replaced by a rename is always whole.
"""

from __future__ import annotations

import os

FileFacts = tuple[tuple[int, ...], ...]
"""Identity, size and times of each file, or the number of the error; used only for comparison."""


def look(*paths: str) -> FileFacts:
    """Return the present facts of files."""
    return tuple(map(_look, paths))


def _look(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (-(error.errno or 0),)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class FileWatch:
    """Facts of files when they were read, and at the latest look."""

    __slots__ = ("_read", "_seen")

    def __init__(self, facts: object) -> None:
        """`facts` are those just before the files were read, so that a change meanwhile is not missed."""
        self._read = self._seen = facts

    @property
    def is_changing(self) -> bool:
        """True if the latest look has found a change that is not yet due."""
        return self._seen != self._read

    def is_due(self, facts: object) -> bool:
        """Take note of the present facts; True if the files have to be read again, now."""
        if facts != self._seen:
            self._seen = facts
            return False
        if facts == self._read:
            return False
        self._read = facts
        return True
