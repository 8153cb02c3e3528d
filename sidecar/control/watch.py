"""Fingerprint of policy files: names, inodes, times and sizes, cheap enough to be taken every second.

Notification by the kernel (inotify) is not used.  The files of a Kubernetes ConfigMap are links through `..data`, which
is a link to a directory.  An update replaces `..data` by a rename, and a watch on a file misses that (Envoy, linkerd
and configmap-reload have each had this bug).  A fingerprint follows links.  So it changes with a swap of `..data`, with
a file that is replaced, and with a file that is written in place.

Kubernetes never updates a `subPath` mount; mount the directory.
"""

from __future__ import annotations

import os
from contextlib import suppress

from sidecar.config.files import SECOND

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
