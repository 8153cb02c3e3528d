"""Google's types of error details (`google/rpc/error_details.proto`), for answers whose descriptor set lacks them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sidecar.grpc.descriptors import INT32, INT64, MESSAGE, STRING, DescriptorSet, Field, MessageType, json_name

Shape = tuple[tuple[str, int | str], ...]
"""Names of fields with their types, in the order of their numbers; `[Type]` is a list, `{}` a map of texts."""
TYPES: Final[dict[str, Shape]] = {
    "google.protobuf.Duration": (("seconds", INT64), ("nanos", INT32)),
    "google.rpc.ErrorInfo": (("reason", STRING), ("domain", STRING), ("metadata", "{}")),
    "google.rpc.ErrorInfo.MetadataEntry": (("key", STRING), ("value", STRING)),
    "google.rpc.RetryInfo": (("retry_delay", "google.protobuf.Duration"),),
    "google.rpc.DebugInfo": (("stack_entries", "[]"), ("detail", STRING)),
    "google.rpc.QuotaFailure": (("violations", "[google.rpc.QuotaFailure.Violation]"),),
    "google.rpc.QuotaFailure.Violation": (("subject", STRING), ("description", STRING)),
    "google.rpc.PreconditionFailure": (("violations", "[google.rpc.PreconditionFailure.Violation]"),),
    "google.rpc.PreconditionFailure.Violation": (("type", STRING), ("subject", STRING), ("description", STRING)),
    "google.rpc.BadRequest": (("field_violations", "[google.rpc.BadRequest.FieldViolation]"),),
    "google.rpc.BadRequest.FieldViolation": (
        ("field", STRING), ("description", STRING), ("reason", STRING),
        ("localized_message", "google.rpc.LocalizedMessage"),
    ),
    "google.rpc.RequestInfo": (("request_id", STRING), ("serving_data", STRING)),
    "google.rpc.ResourceInfo": (
        ("resource_type", STRING), ("resource_name", STRING), ("owner", STRING), ("description", STRING),
    ),
    "google.rpc.Help": (("links", "[google.rpc.Help.Link]"),),
    "google.rpc.Help.Link": (("description", STRING), ("url", STRING)),
    "google.rpc.LocalizedMessage": (("locale", STRING), ("message", STRING)),
}  # fmt: skip
ENTRY: Final = "google.rpc.ErrorInfo.MetadataEntry"


@lru_cache(maxsize=16)
def with_error_details(types: DescriptorSet) -> DescriptorSet:
    """Return a descriptor set with these types beside its own, which win."""
    made = {name: MessageType(name) for name in TYPES}
    made[ENTRY].is_map_entry = True
    for name, shape in TYPES.items():
        for number, (field_name, kind) in enumerate(shape, 1):
            made[name].fields.append(_field(field_name, number, kind, made))
    for message in made.values():
        message.finish()
    found = DescriptorSet()
    found.messages = made | types.messages
    return found


def _field(name: str, number: int, kind: int | str, made: dict[str, MessageType]) -> Field:
    if isinstance(kind, int):
        field = Field(name, number, kind)
    else:
        inner = ENTRY if kind == "{}" else kind.strip("[]")
        field = Field(name, number, MESSAGE if inner else STRING)
        field.message = made[inner] if inner else None
        field.is_repeated = kind[0] in "[{"
        field.has_presence = not field.is_repeated
    field.json_name = json_name(name)
    return field
