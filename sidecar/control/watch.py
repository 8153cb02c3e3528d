"""Watch of policy files: a fingerprint of names, inodes, times and sizes, and the reading of files that are whole.

Notification by the kernel (inotify) is not used.  The files of a Kubernetes ConfigMap are links through `..data`, which
is a link to a directory.  An update replaces `..data` by a rename, and a watch on a file misses that (Envoy, linkerd
and configmap-reload have each had this bug).  A fingerprint follows links.  So it changes with a swap of `..data`, with
a file that is replaced, and with a file that is written in place.

Kubernetes never updates a `subPath` mount; mount the directory.

Half of a policy file can be valid, with half of the routes.  So changed files are read once two looks find the same
(`file_watch`), and read again if they have changed meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sidecar.config.files import SECOND, Source
from sidecar.file_watch import FileWatch

POLL_SECONDS: Final = 1.0
"""Pause between two fingerprints of the files."""
SETTLE_SECONDS: Final = 0.5
"""Pause before the next fingerprint after a change."""
READS: Final = 3
"""Most times that files are read in a row because they change meanwhile; the watch reports a later change."""

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Resolved path, inode, time of modification in nanoseconds, and size in bytes of each entry."""


def fingerprint(path: str) -> Fingerprint:
    """Return the fingerprint of a file, or of a directory, its entries and those of its directory `candidate`.

    Missing entries are left out.
    """
    names = [path]
    for directory in (path, os.path.join(path, SECOND)):
        with suppress(OSError):  # the path is a file, or does not exist
            names += [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    return tuple(look for name in names if (look := _look(name)) is not None)


def _look(path: str) -> tuple[str, int, int, int] | None:
    """Return the entry of one path; None if it does not exist."""
    try:
        real = os.path.realpath(path)
        facts = os.stat(real)
    except OSError:
        return None
    return (real, facts.st_ino, facts.st_mtime_ns, facts.st_size)


class PolicyWatch:
    """Policy files at a path, and the fingerprint under which they were read."""

    def __init__(self, path: str, read: Callable[[str], list[Source]], look: Callable[[str], object]) -> None:
        self._path = path
        self._read = read
        self._look = look
        self._watch = FileWatch(None)

    def read(self) -> list[Source]:
        """Return the files.  Raises `OSError`; they are due again once they have changed."""
        for _ in range(READS):
            seen = self._look(self._path)
            self._watch = FileWatch(seen)
            sources = self._read(self._path)
            if self._look(self._path) == seen:
                break
        return sources

    def is_due(self) -> bool:
        """Look at the files; True if they have changed since they were read, and not since the last look."""
        return self._watch.is_due(self._look(self._path))

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return SETTLE_SECONDS if self._watch.is_changing else POLL_SECONDS
