"""Tests of listening sockets: shared, explained when they fail, and removed by their owner only."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from sidecar.config.listen_address import ListenAddress
from sidecar.downstream.sockets import Sockets


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


async def test_addresses_are_those_that_clients_can_connect_to(tmp_path: Path) -> None:
    sockets = await Sockets.open(ListenAddress("127.0.0.1", 0))
    ((address,), (duplicate,)) = sockets.addresses, sockets.duplicates()
    host, port = address.split(":")
    socket.create_connection((host, int(port))).close()
    assert duplicate.getsockname() == (host, int(port))
    duplicate.close()
    sockets.close()
    unix = await Sockets.open(ListenAddress("", 0, str(tmp_path / "s")))
    assert unix.addresses == [f"unix:{tmp_path}/s"]
    unix.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_ipv6_sockets_take_ipv6_only() -> None:
    try:
        sockets = await Sockets.open(ListenAddress("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    (duplicate,) = sockets.duplicates()
    assert duplicate.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert sockets.addresses == [f"[::1]:{duplicate.getsockname()[1]}"]
    duplicate.close()
    sockets.close()


async def test_sockets_stay_open_until_the_last_user_closes_them(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets = await Sockets.open(ListenAddress("", 0, str(path)))
    assert sockets.share() is sockets
    sockets.close()
    connect(path)
    sockets.close()
    assert not path.exists()


async def test_an_orphaned_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))
    sockets = await Sockets.open(ListenAddress("", 0, str(path)))
    connect(path)
    sockets.close()


async def test_a_unix_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets = await Sockets.open(ListenAddress("", 0, str(path)))
    with pytest.raises(OSError, match="address already in use; stop the process that listens there"):
        await Sockets.open(ListenAddress("", 0, str(path)))
    connect(path)
    sockets.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="address already in use"):
        await Sockets.open(ListenAddress("", 0, str(path)))
    assert path.read_text() == "precious"


async def test_sockets_are_adopted_although_their_file_is_gone(tmp_path: Path) -> None:
    address = ListenAddress("", 0, str(tmp_path / "s"))
    sockets = await Sockets.open(address)
    os.unlink(address.path)
    adopted = Sockets.adopt(address, sockets.duplicates(), is_owner=True)
    Path(address.path).touch()  # by somebody else
    for each in (sockets, adopted):
        each.close()
    assert Path(address.path).exists()


async def test_the_file_of_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets = await Sockets.open(ListenAddress("", 0, str(path)))
    os.rename(path, tmp_path / "moved")  # keeps its inode in use
    path.write_text("another's")
    sockets.close()
    assert path.read_text() == "another's"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (ListenAddress("192.0.2.1", 0), "cannot assign requested address; write an address of this machine"),
        (ListenAddress("", 0, "/nowhere/at/all"), "no such file or directory; create the directory"),
    ],
)
async def test_what_is_wrong_comes_with_what_helps(address: ListenAddress, message: str) -> None:
    with pytest.raises(OSError, match=message):
        await Sockets.open(address)


async def test_a_failure_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    class Counted(socket.socket):
        def bind(self, address: object) -> None:
            opened.append(self)
            if len(opened) == 2:
                raise OSError(98, "taken")
            super().bind(address)  # type: ignore[arg-type]

    async def find(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, 1, 0, "", ("127.0.0.1", 0)), (socket.AF_INET, 1, 0, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find)
    with pytest.raises(OSError, match="already in use"):
        await Sockets.open(ListenAddress("both", 0), Counted)
    assert [sock.fileno() for sock in opened] == [-1, -1]
