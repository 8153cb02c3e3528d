"""Messages of gRPC calls in a test: from JSON to the wire and back, by a descriptor set.

An empty message and a status need no descriptor set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.spec import PolicySpec
from sidecar.grpc.framing import COMPRESSED, MessageReader, MessageTooLarge, frame
from sidecar.grpc.status import split_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.grpc.descriptors import DescriptorSet, MessageType, Method

REMEDY: Final = "write `descriptors: FILE` in the test file"


class Messages:
    """Methods whose messages are known."""

    def __init__(self, sets: Sequence[DescriptorSet]) -> None:
        """Take descriptor sets; of several with one method, the first counts."""
        self._methods: dict[str, tuple[Method, DescriptorSet]] = {}
        for types in sets:
            for service in types.services.values():
                for method in service.methods:
                    self._methods.setdefault(f"/{method.full_name}", (method, types))

    def is_stream(self, path: str) -> bool:
        """True if the method of a path is known to answer with a stream."""
        found = self._methods.get(path)
        return found is not None and found[0].server_streaming

    def encode(self, path: str, values: Sequence[dict[str, Any]], *, of_request: bool) -> bytes:
        """Return messages as a body.  Raises `ValueError` with a sentence for the user."""
        if not any(values):
            return frame(b"") * len(values)
        from sidecar.grpc.from_json import JsonError, from_json

        kind, types = self._kind(path, of_request=of_request)
        try:
            texts = [json.dumps(value, ensure_ascii=False).encode() for value in values]
            return b"".join([frame(from_json(kind, text, types)) for text in texts])
        except JsonError as error:
            raise ValueError(f"a {kind.name} in which {error}") from None

    def decode(self, path: str, body: bytes, *, of_request: bool) -> list[Any]:
        """Return the messages of a body as JSON values.  Raises `ValueError` with a sentence for the user."""
        reader = MessageReader()
        try:
            found = reader.feed(body) if body else []
        except MessageTooLarge as error:
            raise ValueError(str(error)) from None
        if not reader.is_between:
            raise ValueError("a body that ends within a message")
        if any(flags & COMPRESSED for flags, _ in found):
            raise ValueError("a compressed message, which a test cannot read")
        if not any(message for _, message in found):
            return [{} for _ in found]
        from sidecar.grpc.to_json import to_lenient_json
        from sidecar.grpc.wire import MessageError

        kind, types = self._kind(path, of_request=of_request)
        try:
            return [json.loads(to_lenient_json(kind, message, types)) for _, message in found]
        except MessageError as error:
            raise ValueError(f"no {kind.name}: the message {error}") from None

    def _kind(self, path: str, *, of_request: bool) -> tuple[MessageType, DescriptorSet]:
        """Return the type of a method's messages and all types around it.  Raises `ValueError`."""
        found = self._methods.get(path)
        if found is None:
            name = path[1:] if split_path(path.encode()) else path
            raise ValueError(f"messages of {name}, which no descriptor set has; {REMEDY}")
        method, types = found
        return method.input if of_request else method.output, types


def read_messages(path: Path | None, policies: PolicySpec) -> Messages:
    """Return the messages of a descriptor file, or else of the `translate` blocks of all routes.

    Raises `ValueError` for a file that cannot be used.
    """
    if path is not None:
        from sidecar.grpc.descriptors import DescriptorError, read_descriptors

        try:
            return Messages([read_descriptors(path.read_bytes())])
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; name the file of a descriptor set") from None
        except DescriptorError as error:
            raise ValueError(f"{path}: {error}") from None
    blocks = [(route, route.blocks["translate"]) for route in policies.routes if "translate" in route.blocks]
    if not blocks:
        return Messages([])
    from sidecar.stages.translate.source import load

    found: list[Any] = [(block, route.where("translate").file) for route, block in blocks]
    return Messages([load(block.grpc, file)[0] for block, file in found])
