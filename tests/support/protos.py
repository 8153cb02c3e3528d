"""Proto files to descriptor sets without protoc: as much of the language as tests and examples need.

Messages, enums, oneofs, maps, `optional`, `repeated`, services, and the options `google.api.http`, `packed`,
`json_name` and `idempotency_level`.  Google's own types come from the installed packages.

    python -m tests.support.protos policies/proto/shop.proto policies/proto/shop.binpb
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from google.api import annotations_pb2, http_pb2, httpbody_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    text_format,
    timestamp_pb2,
    wrappers_pb2,
)

F = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    name[5:].lower(): number
    for name, number in F.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
GOOGLE = [
    module.DESCRIPTOR
    for module in (
        any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2, descriptor_pb2,
        http_pb2, annotations_pb2, httpbody_pb2,
    )
]  # fmt: skip
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_.][A-Za-z0-9_.]*|-?[0-9]+|[{}()\[\]<>=;,:]')
ENUMS = {"NullValue"}


def compile_proto(text: str, *, only_imports: bool = False) -> bytes:
    """Return the descriptor set of a proto file, with all of Google's types that it may name.

    With `only_imports`, it has those that the file imports, without the files of options.
    """
    found = descriptor_pb2.FileDescriptorSet()
    file = _Parser(text).file()
    wanted = set(re.findall(r'import "([^"]+)"', text)) if only_imports else {each.name for each in GOOGLE}
    if only_imports:
        wanted -= {"google/api/annotations.proto"}
        file.dependency[:] = sorted(wanted)
    for each in GOOGLE:
        if each.name in wanted:
            each.CopyToProto(found.file.add())
    found.file.append(file)
    return found.SerializeToString(deterministic=True)


def pool_of(data: bytes) -> descriptor_pool.DescriptorPool:
    """Return protobuf's own tables of a descriptor set."""
    pool = descriptor_pool.DescriptorPool()
    for each in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(each)
    return pool


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(re.sub(r"//[^\n]*", "", text))
        self.at = 0
        self.package = ""
        self.enums = {f".google.protobuf.{name}" for name in ENUMS}
        self.known: set[str] = set()
        self.fields: list[tuple[str, F]] = []

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def take(self, *wanted: str) -> None:
        for each in wanted:
            assert (got := self.next()) == each, (each, got, self.tokens[self.at - 5 : self.at + 5])

    def comes(self, token: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == token:
            self.at += 1
            return True
        return False

    def file(self) -> descriptor_pb2.FileDescriptorProto:
        file = descriptor_pb2.FileDescriptorProto(name="test.proto", syntax="proto3")
        file.dependency.extend(each.name for each in GOOGLE)
        while self.at < len(self.tokens):
            word = self.next()
            if word == "syntax":
                self.take("=")
                file.syntax = self.next().strip('"')
                self.take(";")
            elif word == "package":
                file.package = self.package = self.next()
                self.take(";")
            elif word == "import":
                self.next()
                self.take(";")
            elif word == "message":
                self.message(file.message_type.add(), f".{self.package}")
            elif word == "enum":
                self.enum(file.enum_type.add(), f".{self.package}")
            else:
                assert word == "service", word
                self.service(file.service.add())
        if file.syntax == "proto2":
            file.ClearField("syntax")
        for scope, field in self.fields:
            self.resolve(scope, field)
        for service in file.service:
            for method in service.method:
                method.input_type = self.find(f".{self.package}", method.input_type)
                method.output_type = self.find(f".{self.package}", method.output_type)
        return file

    def find(self, scope: str, name: str) -> str:
        while True:
            if f"{scope}.{name}" in self.known | self.enums:
                return f"{scope}.{name}"
            if not scope:
                return f".{name}"
            scope = scope.rpartition(".")[0]

    def resolve(self, scope: str, field: F) -> None:
        field.type_name = self.find(scope, field.type_name)
        if field.type == F.TYPE_GROUP:
            return
        field.type = F.TYPE_ENUM if field.type_name in self.enums else F.TYPE_MESSAGE

    def message(self, message: descriptor_pb2.DescriptorProto, scope: str) -> None:
        message.name = self.next()
        scope = f"{scope}.{message.name}"
        self.known.add(scope)
        self.take("{")
        while not self.comes("}"):
            word = self.next()
            if word == "message":
                self.message(message.nested_type.add(), scope)
            elif word == "enum":
                self.enum(message.enum_type.add(), scope)
            elif word == "oneof":
                index = len(message.oneof_decl)
                message.oneof_decl.add(name=self.next())
                self.take("{")
                while not self.comes("}"):
                    self.field(message, scope, self.next(), oneof=index)
            else:
                self.field(message, scope, word)
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")

    def field(self, message: descriptor_pb2.DescriptorProto, scope: str, word: str, oneof: int = -1) -> None:
        field = message.field.add(label=F.LABEL_OPTIONAL)
        if word in ("repeated", "optional", "required"):
            field.label = F.Label.Value(f"LABEL_{word.upper()}")
            field.proto3_optional = word == "optional"
            word = self.next()
        if oneof >= 0:
            field.oneof_index = oneof
        if word == "map":
            self.take("<")
            key = self.next()
            self.take(",")
            value = self.next()
            self.take(">")
            field.name = self.next()
            field.label = F.LABEL_REPEATED
            entry = message.nested_type.add(name=f"{field.name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            self.known.add(f"{scope}.{entry.name}")
            for number, (name, kind) in enumerate((("key", key), ("value", value)), 1):
                self.type(entry.field.add(name=name, number=number, label=F.LABEL_OPTIONAL), scope, kind)
            word = entry.name
        else:
            field.name = self.next()
        self.take("=")
        field.number = int(self.next())
        if word == "group":
            raise NotImplementedError
        self.type(field, scope, word)
        if self.comes("["):
            while True:
                name = self.next()
                self.take("=")
                value = self.next()
                if name == "packed":
                    field.options.packed = value == "true"
                else:
                    assert name == "json_name", name
                    field.json_name = value.strip('"')
                if not self.comes(","):
                    break
            self.take("]")
        self.take(";")

    def type(self, field: F, scope: str, word: str) -> None:
        if word in SCALARS:
            field.type = SCALARS[word]
        else:
            field.type_name = word
            self.fields.append((scope, field))

    def enum(self, enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> None:
        enum.name = self.next()
        self.enums.add(f"{scope}.{enum.name}")
        self.take("{")
        while not self.comes("}"):
            name = self.next()
            if name == "option":
                self.take("allow_alias", "=", "true", ";")
                enum.options.allow_alias = True
                continue
            self.take("=")
            enum.value.add(name=name, number=int(self.next()))
            self.take(";")

    def service(self, service: descriptor_pb2.ServiceDescriptorProto) -> None:
        service.name = self.next()
        self.take("{")
        while not self.comes("}"):
            self.take("rpc")
            method = service.method.add(name=self.next())
            self.take("(")
            method.client_streaming = self.comes("stream")
            method.input_type = self.next()
            self.take(")", "returns", "(")
            method.server_streaming = self.comes("stream")
            method.output_type = self.next()
            self.take(")")
            if self.comes(";"):
                continue
            self.take("{")
            while not self.comes("}"):
                self.take("option")
                if self.comes("idempotency_level"):
                    self.take("=")
                    method.options.idempotency_level = descriptor_pb2.MethodOptions.IdempotencyLevel.Value(self.next())
                    self.take(";")
                    continue
                self.take("(", "google.api.http", ")", "=")
                rule = method.options.Extensions[annotations_pb2.http]
                text_format.Parse(" ".join(self.braces()), rule)
                self.take(";")

    def braces(self) -> Iterable[str]:
        self.take("{")
        depth = 1
        while True:
            token = self.next()
            depth += (token == "{") - (token == "}")
            if not depth:
                return
            yield token


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(compile_proto(source.read_text(), only_imports=True))
