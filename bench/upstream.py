"""Upstream of the benchmark: a server that does as little as possible, so that the proxy is measured.

It is nginx with static files if that is installed, else this module's server, on httptools: `upstream PORT [PORT
IDENTITY]`, the second port with TLS.

- `/orders/small` answers some 284 bytes, head included, `/orders/large` 64 KiB.  `/secure/small` is `/orders/small`.
- `/orders/failing` and `/prompt/failing` fail one time in ten.
- `/cached/small` and `/cached/large` are the same as those of `/orders` and fresh for an hour, whatever their query.
- `/v1/` is a collector: it accepts every POST and discards the body.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from email.utils import formatdate
from pathlib import Path
from string import Template
from typing import Final, cast

import httptools
import uvloop

from bench import certificates

SMALL: Final = b'{"id":"7","state":"shipped","items":3}'
TAG: Final = b'"6920f5d8-26"'
LARGE: Final = bytes(64 * 1024)
FAILING_SHARE: Final = 0.1


def find() -> str | None:
    """Return the path of nginx; None if it is not installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


def name() -> str:
    """Return the name and version of the server."""
    return "nginx, static files" if find() else "own server (httptools, uvloop)"


SECURE: Final = """\
        listen 127.0.0.1:${SECURE_PORT} ssl backlog=4096;
        ssl_certificate ${IDENTITY}/cert.pem;
        ssl_certificate_key ${IDENTITY}/key.pem;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
"""
"""Lines of nginx's configuration for TLS: one version and one cipher, so that each proxy does the same work."""


def command(port: int, directory: Path, secure_port: int = 0, identity: Path | None = None) -> list[str]:
    """Return the command line of nginx, or of this module's server; `directory` gets its files.

    With an `identity` (`bench.certificates`) the server speaks TLS on `secure_port` as well.
    """
    nginx = find()
    if nginx is None:
        secure = [] if identity is None else [str(secure_port), str(identity)]
        return [sys.executable, "-m", "bench.upstream", str(port), *secure]
    files = directory / "files" / "orders"
    files.mkdir(parents=True)
    (files / "small").write_bytes(SMALL)
    (files / "large").write_bytes(LARGE)
    text = Path(__file__).with_name("upstream.conf").read_text()
    lines = "" if identity is None else Template(SECURE).substitute(SECURE_PORT=secure_port, IDENTITY=identity)
    path = directory / "upstream.conf"
    path.write_text(Template(text).safe_substitute(UPSTREAM_PORT=port, DIRECTORY=directory, SECURE=lines))
    return [nginx, "-p", str(directory), "-c", str(path), "-e", str(directory / "upstream.log")]


def answer(status: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}"
    date = "" if more else "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"  # old, and so not fresh
    return head.encode() + date.encode() + b"Connection: keep-alive\r\n\r\n" + body


def like_nginx(status: str, body: bytes, more: str = "") -> bytes:
    """Return a response with the fields that nginx gives to a file; `more` are whole lines beside them."""
    return (
        f"HTTP/1.1 {status}\r\nServer: nginx/1.22.1\r\nDate: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Last-Modified: Sun, 22 Nov 2020 00:50:48 GMT\r\nConnection: keep-alive\r\nETag: {TAG.decode()}\r\n{more}"
        "Accept-Ranges: bytes\r\n\r\n"
    ).encode() + body


class Static(asyncio.Protocol):
    """Connection of this module's server."""

    answers: Final = {
        b"/orders/small": answer("200 OK", SMALL),
        b"/orders/large": answer("200 OK", LARGE),
        b"/cached/small": answer("200 OK", SMALL, "Cache-Control: max-age=3600\r\n"),
        b"/cached/large": answer("200 OK", LARGE, "Cache-Control: max-age=3600\r\n"),
    }
    failure: Final = answer("503 Service Unavailable", b'{"error":"told to fail"}')

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.target = url.partition(b"?")[0]

    def on_message_complete(self) -> None:
        if self.target in (b"/orders/failing", b"/prompt/failing") and random.random() < FAILING_SHARE:
            self.transport.write(self.failure)
        else:
            self.transport.write(self.answers.get(self.target, self.answers[b"/orders/small"]))


async def serve(port: int, secure_port: int = 0, identity: str = "") -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Static, "127.0.0.1", port, backlog=4096)
    if identity:
        context = certificates.server_context(Path(identity))
        await loop.create_server(Static, "127.0.0.1", secure_port, ssl=context, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        port, secure_port, identity = (*sys.argv[1:], "0", "")[:3]
        loop.run(serve(int(port), int(secure_port), identity))
