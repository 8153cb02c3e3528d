"""Fingerprint of policy files: names, inodes, times and sizes, cheap enough to be taken once a second.

Notification by the kernel (inotify) was tried and left.  The files of a Kubernetes ConfigMap never change: they are
links through `..data`, itself a link to a directory that is replaced by a rename, which a watch on a file misses
(Envoy, linkerd and configmap-reload have each had this bug).  A fingerprint is of what a path resolves to, so it sees a
swap of `..data`, a file that is replaced by a rename, and one that is written in place.  Kubernetes never updates a
`subPath` mount; mount the directory.
"""

from __future__ import annotations

import os
from contextlib import suppress

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Real path, inode, time of modification in nanoseconds and size in bytes of each entry."""


def fingerprint(path: str) -> Fingerprint:
    """Return the fingerprint of a file, or of a directory and its entries; what is not there has none."""
    names = [path]
    with suppress(OSError):  # the path is a file, or gone
        names += [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return tuple(look for name in names if (look := _look(name)) is not None)


def _look(path: str) -> tuple[str, int, int, int] | None:
    try:
        real = os.path.realpath(path)
        facts = os.stat(real)
    except OSError:
        return None
    return (real, facts.st_ino, facts.st_mtime_ns, facts.st_size)
