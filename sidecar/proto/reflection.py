"""Descriptor set of a server by its reflection service (gRPC Server Reflection Protocol).

Rules:

1. `grpc.reflection.v1` is asked first, and `v1alpha` if the server does not implement it.
2. The set has the files of the services and all files that they import, each behind those that it imports.
3. Number and size of the files are bounded, and every question has a timeout.

The messages of the protocol are read and written here: they are few, and their classes would be one more dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sidecar.grpc.wire import MessageError, fields, varint

VERSIONS: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
"""Packages of the reflection service, the newest first."""
MOST_FILES: Final = 2000
MOST_BYTES: Final = 64 * 2**20
"""Most files, and most bytes, of a descriptor set."""
FILE_BY_NAME: Final = 3
FILE_OF_SYMBOL: Final = 4
LIST_SERVICES: Final = 7
"""Kinds of questions: numbers of the fields of a request."""
FILES: Final = 4
SERVICES: Final = 6
ERROR: Final = 7
"""Kinds of answers: numbers of the fields of a response."""

Ask = Callable[[int, str], bytes]
"""Function that puts a question of a kind, and returns the answer's message."""


class PullError(Exception):
    """Raised if the descriptors of a server cannot be read; the text is one line."""


class NotImplementedByServer(Exception):  # noqa: N818 - a signal to ask for another version
    """Raised by a question whose service the server does not have."""


def pull(ask: Sequence[Ask], services: Sequence[str] = ()) -> bytes:
    """Return the descriptor set of a server.

    `ask` has a function for each of `VERSIONS`; `services` limits the set to some services.  Raises `PullError`.
    """
    for version in ask:
        try:
            return _pull(version, services)
        except NotImplementedByServer:
            continue
    raise PullError("has no server reflection; turn it on in the service, or write the set with protoc or buf")


def _pull(ask: Ask, services: Sequence[str]) -> bytes:
    known = [_text(each, 1) for each in _answer(ask(LIST_SERVICES, "*"), SERVICES, "its services")]
    wanted = [name for name in known if not name.startswith("grpc.reflection.")]
    for name in services:
        if name not in wanted:
            raise PullError(f"has no service {name}; its services are {', '.join(wanted[:20]) or 'none'}")
    files: dict[str, bytes] = {}
    size = 0

    def add(found: Sequence[bytes]) -> None:
        nonlocal size
        for file in found:
            size += len(file)
            if size > MOST_BYTES or len(files) >= MOST_FILES:
                raise PullError(f"has more than {MOST_FILES} files or {MOST_BYTES} bytes; name some with --service")
            files[_text(file, 1)] = file

    for name in services or wanted:
        add(_answer(ask(FILE_OF_SYMBOL, name), FILES, name))
    ordered: dict[str, bytes] = {}
    missing = list(files)
    opened: set[str] = set()
    while missing:
        name = missing[-1]
        if name in ordered:
            missing.pop()
            continue
        if name not in files:
            add(_answer(ask(FILE_BY_NAME, name), FILES, name))
            if name not in files:
                raise PullError(f"answers another file when asked for {name}")
        needed = [_decoded(each) for number, each in fields(files[name]) if number == 3 and isinstance(each, bytes)]
        inner = [each for each in needed if each not in ordered]
        if not inner:
            ordered[name] = files[name]
            missing.pop()
        elif opened.intersection(inner) or name in inner:
            raise PullError("has files that import each other in a circle")
        else:
            opened.add(name)
            missing += inner
    return b"".join(b"\x0a" + varint(len(file)) + file for file in ordered.values())


def _answer(data: bytes, kind: int, subject: str) -> list[bytes]:
    """Return the items of an answer.  Raises `PullError`."""
    try:
        found = [(number, value) for number, value in fields(data) if isinstance(value, bytes)]
        for number, value in found:
            if number == ERROR:
                raise PullError(f"does not tell {subject}: {_text(value, 2)[:200] or 'no reason given'}")
        return [
            item
            for number, value in found
            if number == kind
            for inner, item in fields(value)
            if inner == 1 and isinstance(item, bytes)
        ]
    except MessageError as error:
        raise PullError(f"answers with a message that {error}") from None


def _text(data: bytes, number: int) -> str:
    """Return a text field of a message; empty if it has none."""
    try:
        found = [value for each, value in fields(data) if each == number and isinstance(value, bytes)]
    except MessageError as error:
        raise PullError(f"answers with a message that {error}") from None
    return _decoded(found[-1]) if found else ""


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def askers(
    target: str, ca: bytes | None, is_tls: bool, metadata: Sequence[tuple[str, str]], seconds: float
) -> list[Ask]:
    """Return the functions that ask a server at `host:port`, one for each of `VERSIONS`.

    `ca` has the certificate authorities in PEM; None for those of the system.
    """
    import grpc  # type: ignore[import-untyped]

    options = [("grpc.max_receive_message_length", MOST_BYTES)]
    if is_tls:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca), options)
    else:
        channel = grpc.insecure_channel(target, options)

    def asker(version: str) -> Ask:
        method: Any = channel.stream_stream(f"/{version}.ServerReflection/ServerReflectionInfo")

        def ask(kind: int, text: str) -> bytes:
            data = text.encode()
            request = varint(kind << 3 | 2) + varint(len(data)) + data
            try:
                for answer in method(iter((request,)), timeout=seconds, metadata=tuple(metadata)):
                    return bytes(answer)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise NotImplementedByServer from None
                raise PullError(f"cannot be asked: {error.code().name}: {' '.join(error.details().split())}") from None
            raise PullError("ends the stream of its reflection service without an answer")

        return ask

    return [asker(version) for version in VERSIONS]
