"""Has a policy file changed?  A look at names, inodes, times and sizes, cheap enough for once a second.

Being told by the kernel (inotify) was tried and left: under a Kubernetes ConfigMap the named files never change.  They
are links through `..data`, itself a link to a directory that is replaced with one rename, and who watches the file
misses that (Envoy, linkerd and configmap-reload have each had this bug).  What is compared here is what a path resolves
to, so a swap of `..data`, a file replaced by rename and one written in place are all the same.  A `subPath` mount is
never updated by Kubernetes, so there is nothing to notice; mount the directory.
"""

from __future__ import annotations

import os
from contextlib import suppress

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Real path, inode, time of modification in nanoseconds and size in bytes of each entry."""


def fingerprint(path: str) -> Fingerprint:
    """What a file, or a directory and its entries, look like from outside; what is not there looks like nothing."""
    names = [path]
    with suppress(OSError):  # a file, or gone: the look says which
        names += [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return tuple(look for name in names if (look := _look(name)) is not None)


def _look(path: str) -> tuple[str, int, int, int] | None:
    try:
        real = os.path.realpath(path)
        facts = os.stat(real)
    except OSError:
        return None
    return (real, facts.st_ino, facts.st_mtime_ns, facts.st_size)
