"""TLS handshakes in memory."""

from __future__ import annotations

import ssl
from typing import Any


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = "app", session: Any = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands and exchange a byte: in TLS 1.3 the client's certificate is judged after its side is done.

    Returns the client's and the server's end.
    """
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(a, b, server_hostname=name, session=session)
    theirs = server.wrap_bio(b, a, server_side=True)
    steps: list[Any] = [ours.do_handshake, theirs.do_handshake, lambda: ours.write(b"x"), lambda: theirs.read(1)]
    steps += [lambda: theirs.write(b"y"), lambda: ours.read(1)]
    for _ in range(20):
        waiting = []
        for step in steps:
            try:
                step()
            except ssl.SSLWantReadError:
                waiting.append(step)
        steps = waiting
        if not steps:
            return ours, theirs
    raise AssertionError("the handshake does not end")


def serial(connection: ssl.SSLObject) -> Any:
    """Return the serial number of the certificate that the other end showed."""
    certificate = connection.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]
