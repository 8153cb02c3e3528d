"""Target: messages and their JSON, in both directions, and descriptor sets.

The laws: nothing is raised but the errors of the codec; a text that is made is JSON, and reads as the same message; a
message that is made from a text has a text; a descriptor set is read or refused.
"""

from __future__ import annotations

import json

from tests.fuzz.harness import fuzz, instrumented

with instrumented():
    from sidecar.grpc.descriptors import DescriptorError, read_descriptors
    from sidecar.grpc.from_json import JsonError, from_json, parameter_from_text
    from sidecar.grpc.to_json import to_json, to_lenient_json
    from sidecar.grpc.wire import MessageError

from tests.unit.grpc.types import DATA, TYPES

KINDS = [
    kind
    for name, kind in sorted(TYPES.messages.items(), reverse=True)
    if (name.startswith("test.") or kind.special) and not kind.is_map_entry
]
FIELDS = [field for kind in KINDS for field in kind.fields]
LIMIT = 100_000
"""Longest text of a message, in characters."""


def check(data: bytes) -> None:
    """The first byte says what the rest is, the second its type."""
    what, kind, rest = data[:1], KINDS[data[1] % len(KINDS)] if len(data) > 1 else KINDS[0], data[2:]
    if what == b"d":
        half = len(DATA) // 2
        for descriptors in (rest, DATA[:half] + rest + DATA[half:], DATA + rest):
            try:
                read_descriptors(descriptors)
            except DescriptorError:
                continue
    elif what == b"p":
        field = FIELDS[data[1] % len(FIELDS)] if len(data) > 1 else FIELDS[0]
        try:
            parameter_from_text(field, rest.decode("utf-8", "replace"))
        except JsonError:
            return
    elif what == b"j":
        try:
            wire = from_json(kind, rest, TYPES)
        except JsonError:
            return
        assert len(wire) <= 12 * len(rest) + 16
        text = to_json(kind, wire, TYPES)
        assert to_json(kind, from_json(kind, text, TYPES), TYPES) == text
    else:
        try:
            text = to_json(kind, rest, TYPES, LIMIT)
        except MessageError:
            try:
                to_lenient_json(kind, rest, TYPES, LIMIT)
            except MessageError:
                return
            return
        assert len(text) <= 4 * LIMIT
        json.loads(text)
        assert to_json(kind, from_json(kind, text, TYPES), TYPES) == text


if __name__ == "__main__":
    fuzz("messages", check)
