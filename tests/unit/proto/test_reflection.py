"""Tests of `sidecar proto pull`: the questions and their answers, and the command against a server of grpcio."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2

from sidecar.commands import main
from sidecar.grpc.descriptors import read_descriptors
from sidecar.grpc.wire import fields, varint
from sidecar.proto import reflection
from sidecar.proto.reflection import FILE_OF_SYMBOL, LIST_SERVICES, NotImplementedByServer, PullError, pull
from tests.unit.stages.translate.shop import DATA

FILES = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(DATA).file}


def delimited(number: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(data)) + data


def answer(kind: int, text: str) -> bytes:
    """Answer a question as a server does."""
    if kind == LIST_SERVICES:
        names = ("grpc.reflection.v1.ServerReflection", "shop.Orders")
        return delimited(6, *(delimited(1, delimited(1, name.encode())) for name in names))
    name = "test.proto" if kind == FILE_OF_SYMBOL and text == "shop.Orders" else text
    if name not in FILES:
        return delimited(7, b"\x08\x05", delimited(2, b"not found"))
    return delimited(4, delimited(1, FILES[name].SerializeToString()))


def test_the_set_has_all_imports_each_before_those_that_need_it() -> None:
    data = pull([answer])
    files = [file.name for file in descriptor_pb2.FileDescriptorSet.FromString(data).file]
    assert set(files) == set(FILES)
    for name in files:
        assert all(files.index(each) < files.index(name) for each in FILES[name].dependency)
    assert read_descriptors(data).services["shop.Orders"].methods[0].rules[0].path == "/v1/orders/{id}"


def test_an_older_version_of_reflection_is_asked_too() -> None:
    def missing(*_: Any) -> bytes:
        raise NotImplementedByServer

    assert pull([missing, answer]) == pull([answer])
    with pytest.raises(PullError, match="has no server reflection; turn it on in the service"):
        pull([missing, missing])


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda *_: b"\xff", "answers with a message that is cut off"),
        (lambda *_: delimited(7, delimited(2, b"no")), "does not tell its services: no"),
        (
            lambda kind, text: answer(kind, text if kind == LIST_SERVICES else "gone"),
            "does not tell shop.Orders: not found",
        ),
        (
            lambda kind, text: answer(kind, text) if kind in (LIST_SERVICES, FILE_OF_SYMBOL) else
            delimited(4, delimited(1, FILES["test.proto"].SerializeToString())),
            "answers another file when asked for",
        ),
    ],
)  # fmt: skip
def test_what_a_server_gets_wrong_is_told(reply: Any, error: str) -> None:
    with pytest.raises(PullError, match=error):
        pull([reply])


def test_the_set_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection, "MOST_FILES", 3)
    with pytest.raises(PullError, match="has more than 3 files"):
        pull([answer])


def test_files_that_import_each_other_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection, "MOST_FILES", 50)

    def circle(kind: int, text: str) -> bytes:
        if kind == LIST_SERVICES:
            return answer(kind, text)
        name, other = ("a", "b") if text in ("a", "shop.Orders") else ("b", "a")
        return delimited(4, delimited(1, delimited(1, name.encode()), delimited(3, other.encode())))

    with pytest.raises(PullError, match="in a circle"):
        pull([circle])


def test_a_service_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(PullError, match=r"has no service shop.Nope; its services are shop.Orders"):
        pull([answer], ["shop.Nope"])


class Reflection(grpc.GenericRpcHandler):
    """Reflection service of one version."""

    def __init__(self, version: str) -> None:
        self.path = f"/{version}.ServerReflection/ServerReflectionInfo"
        self.seen: list[Any] = []

    def service(self, details: Any) -> Any:
        if details.method != self.path:
            return None
        self.seen.append(dict(details.invocation_metadata).get("x-key"))
        return grpc.stream_stream_rpc_method_handler(self.talk)

    def talk(self, requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for request in requests:
            ((kind, value),) = fields(request)
            assert isinstance(value, bytes)
            yield answer(kind, value.decode())


@pytest.mark.parametrize("version", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_the_command_writes_the_set_of_a_server(version: str, tmp_path: Path) -> None:
    handler = Reflection(version)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        path = tmp_path / "shop.binpb"
        try:
            done = CliRunner().invoke(
                main, ["proto", "pull", f"http://127.0.0.1:{port}", "-o", str(path), "-H", "X-Key: k"]
            )
        finally:
            server.stop(None).wait()
    assert done.exit_code == 0, done.output
    assert done.output == f"{path}: {path.stat().st_size} bytes\n"
    assert "shop.Orders" in read_descriptors(path.read_bytes()).services
    assert set(handler.seen) == {"k"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("127.0.0.1",), 2, "ADDRESS: `127.0.0.1` is not an address; write such as 127.0.0.1:9000"),
        (("ftp://a:1",), 2, "is not an address"),
        (("a:1", "-H", "x"), 2, "--header: `x` has no colon"),
        (("https://a:1", "--ca", "/nowhere"), 1, "/nowhere: No such file or directory; name a file that can be read"),
        (("127.0.0.1:1", "--timeout", "5"), 1, "127.0.0.1:1: cannot be asked: UNAVAILABLE: "),
    ],
)
def test_what_is_asked_wrongly_is_said(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = CliRunner().invoke(main, ["proto", "pull", *arguments])
    assert done.exit_code == code
    assert message in done.output
    assert len(done.output.splitlines()) == 1
