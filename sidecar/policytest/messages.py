"""Messages of gRPC in tests: JSON to what stands on the wire and back, by the descriptor set that a test file names."""

from __future__ import annotations

import json
from typing import Any, Final

from sidecar.grpc.descriptors import DescriptorSet, MessageType
from sidecar.grpc.framing import MessageReader, MessageTooLarge, frame
from sidecar.grpc.from_json import from_json
from sidecar.grpc.to_json import to_json
from sidecar.grpc.wire import MessageError
from sidecar.policytest.spec import ContentSpec

NO_DESCRIPTORS: Final = "descriptors of the file, such as descriptors: proto/shop.binpb"


class Messages:
    """Translator of the messages of all methods that a descriptor set has; without one every message is empty."""

    def __init__(self, types: DescriptorSet | None) -> None:
        self._types = types

    def encode(self, path: str, spec: ContentSpec, *, is_answer: bool) -> bytes:
        """Return the messages of a request or an answer with their prefixes: an empty one if `spec` has none.

        `path` names service and method.  Raises `ValueError` with the reason.
        """
        if "message" not in spec.model_fields_set:
            return frame(b"")
        types, kind = self._type(path, is_answer)
        values = spec.message if isinstance(spec.message, list) else [spec.message]
        return b"".join([frame(from_json(kind, json.dumps(value).encode(), types)) for value in values])

    def decode(self, path: str, content: bytes, *, is_answer: bool) -> Any:
        """Return the message in the content of a call as a JSON value; a list if there is not exactly one.

        Raises `ValueError` with the reason.
        """
        types, kind = self._type(path, is_answer)
        reader = MessageReader()
        try:
            found = [
                json.loads(to_json(kind, message, types)) for _, message in (reader.feed(content) if content else ())
            ]
        except (MessageError, MessageTooLarge) as error:
            raise ValueError(str(error)) from None
        if not reader.is_between:
            raise ValueError("the content ends within a message")
        return found[0] if len(found) == 1 else found

    def _type(self, path: str, is_answer: bool) -> tuple[DescriptorSet, MessageType]:
        types = self._types
        if types is None:
            raise ValueError(f"a message needs {NO_DESCRIPTORS}")
        service, _, name = path.partition("?")[0].lstrip("/").rpartition("/")
        known = types.services.get(service)
        for method in () if known is None else known.methods:
            if method.name == name:
                return types, method.output if is_answer else method.input
        raise ValueError(f"the descriptors of the file have no method {service}/{name}")
