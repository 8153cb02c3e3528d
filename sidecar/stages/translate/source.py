"""Descriptor files: read when policies are loaded, and kept until they change.

`sidecar check`, the stage and `sidecar explain` ask for the same file.  It is read again if its time, size or inode
differs.
"""

from __future__ import annotations

import os
from functools import lru_cache

from sidecar.grpc.bindings import Bindings
from sidecar.grpc.descriptors import DescriptorError, DescriptorSet, read_descriptors
from sidecar.stages.translate.spec import GrpcSpec

MOST_BYTES = 64 * 2**20
"""Bytes of the largest descriptor set."""


def path_of(spec: GrpcSpec, policy_file: str) -> str:
    """Return the path of a descriptor file; a relative one begins at the folder of the policy file."""
    return os.path.join(os.path.dirname(policy_file), spec.descriptors)


def load(spec: GrpcSpec, policy_file: str) -> tuple[DescriptorSet, Bindings]:
    """Return the types and the bindings of a block.  Raises `ValueError` with the path, the reason and the remedy."""
    path = path_of(spec, policy_file)
    try:
        types = _read(path, _stamp(path))
        return types, _bind(types, spec.services, spec.ignore_query, spec.streams == "websocket")
    except OSError as error:
        raise ValueError(
            f"names the descriptor set {path}, which cannot be read ({error.strerror}); write the path of a file"
        ) from None
    except DescriptorError as error:
        raise ValueError(f"names the descriptor set {path}, which {error}") from None


def _stamp(path: str) -> tuple[int, int, int]:
    """Return inode, time in nanoseconds and size of a file."""
    facts = os.stat(path)
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _read(path: str, stamp: tuple[int, int, int]) -> DescriptorSet:
    if stamp[2] > MOST_BYTES:
        raise DescriptorError(f"has more than {MOST_BYTES} bytes; leave out services that are not called")
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if _stamp(path) != stamp:  # half of a descriptor set can be valid
        raise DescriptorError("was written while it was read; load the policies again")
    return read_descriptors(data)


@lru_cache(maxsize=16)
def _bind(types: DescriptorSet, services: tuple[str, ...], ignored: tuple[str, ...], has_sockets: bool) -> Bindings:
    return Bindings(types, services, frozenset(ignored), has_sockets)
