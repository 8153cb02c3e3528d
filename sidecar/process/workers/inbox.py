"""Inbox of a worker: a Unix socket through which sockets reach it (SCM_RIGHTS).

The supervisor holds both ends of every inbox, and the workers hold the sending ends.  So a socket that was sent to a
worker which then died is not lost: the supervisor takes it out and sends it to another worker.

A packet has one socket and a JSON text of at most `MAX_TEXT` bytes: `["listen", address]` for a listening socket, and
`["client", listener, TLS or not]` for a connection.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from sidecar.downstream.descriptors import HasFileno

MAX_TEXT: Final = 4096
"""Most bytes of the text of a packet."""


def open_inbox() -> tuple[socket.socket, socket.socket]:
    """Return the receiving and the sending end of a new inbox; both are non-blocking, and not inherited."""
    receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiving.setblocking(False)
    sending.setblocking(False)
    return receiving, sending


def send(inbox: socket.socket, text: Any, sock: HasFileno) -> bool:
    """Send a socket with a JSON-ready text; False if the inbox is full or closed.  The caller still owns the socket."""
    try:
        socket.send_fds(inbox, [json.dumps(text, separators=(",", ":")).encode()], [sock.fileno()])
    except OSError:
        return False
    return True


def receive(inbox: socket.socket) -> tuple[Any, socket.socket | None] | None:
    """Return the next text with its socket, which then belongs to the caller; None if nothing waits.

    There is no socket if the process had no free descriptor: the kernel has closed it.
    """
    try:
        text, handles, _flags, _address = socket.recv_fds(inbox, MAX_TEXT, 1)
    except OSError:
        return None
    if not text:
        return None
    if not handles:
        return json.loads(text), None
    sock = socket.socket(fileno=handles[0])
    sock.setblocking(False)
    return json.loads(text), sock
