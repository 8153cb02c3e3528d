"""Tests of the hand-over: one that fails has a reason, and the files of Unix sockets are those of the new process."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from sidecar.config.listen_address import ListenAddress
from sidecar.downstream.sockets import Sockets, socket_key
from sidecar.process.handover import Inheritance, start_successor
from tests.support.loop import virtual, virtual_env


@virtual
async def test_a_hand_over_without_free_descriptors_fails_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    env = virtual_env()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    reason = await start_successor({}, env, lambda _: None)
    assert reason == "cannot open a channel to a new process: Too many open files"


@virtual
async def test_the_first_process_of_a_container_hands_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "PID 1" in await start_successor({}, virtual_env(), lambda _: None)


async def inherit(address: ListenAddress) -> tuple[Sockets, Inheritance]:
    """Return the sockets of a process with one listener, and what a new process gets of it."""
    sockets = await Sockets.open(address)
    sockets.disown()
    return sockets, Inheritance(None, {socket_key("app", address): sockets.duplicates()})


async def test_a_unix_socket_without_its_file_is_opened_anew(tmp_path: Path) -> None:
    address = ListenAddress("", 0, str(tmp_path / "s"))
    old, inheritance = await inherit(address)
    os.unlink(address.path)
    new = await inheritance.open("app", address)
    inheritance.finish()
    old.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(address.path)
    new.close()
    assert not os.path.exists(address.path)


async def test_the_file_of_a_unix_socket_that_nobody_takes_is_removed(tmp_path: Path) -> None:
    address = ListenAddress("", 0, str(tmp_path / "s"))
    old, inheritance = await inherit(address)
    assert os.path.exists(address.path)
    inheritance.finish()
    assert not os.path.exists(address.path)
    old.close()
