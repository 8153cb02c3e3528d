"""Files that keep state over a restart: the keys of issuers, and the figures of the last hours."""

from __future__ import annotations

import os
from contextlib import suppress


def append_to_file(path: str, data: bytes) -> None:
    """Append to a file that is there.  Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "ab") as file:
        file.write(data)


def write_file(path: str, data: bytes) -> None:
    """Replace a file as a whole; only its owner may read it.  Raises `OSError`."""
    draft = f"{path}.{os.getpid()}.new"
    with suppress(FileNotFoundError):  # a draft of an earlier process, or of somebody else
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
