"""Tests of the reserve of descriptors."""

from __future__ import annotations

import resource
import socket
from types import SimpleNamespace
from unittest import mock

import pytest

from sidecar.downstream import descriptors


@pytest.mark.parametrize(
    ("limit", "number", "are_scarce"),
    [
        (1024, 10, False),
        (1024, 959, False),
        (1024, 960, True),
        (1024, 1023, True),
        (40, 29, False),
        (40, 30, True),
        (resource.RLIM_INFINITY, 1_000_000, False),
        (1024, None, False),
    ],
)
def test_high_descriptors_are_scarce(
    monkeypatch: pytest.MonkeyPatch, limit: int, number: int | None, are_scarce: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    sock = None if number is None else mock.Mock(spec=socket.socket, **{"fileno.return_value": number})
    assert descriptors.are_scarce(sock) is are_scarce


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: wanted.append(limits))
    descriptors.raise_limit()
    assert wanted == [(4096, 4096)]


def test_a_limit_that_the_system_does_not_grant_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError(limits)

    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_limit()


def test_the_admin_listener_has_a_part_of_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, first, last in ((256, 192, 224), (1024, 960, 992), (40, 30, 35)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        for number in range(limit):
            sock = SimpleNamespace(fileno=lambda number=number: number)
            assert descriptors.are_scarce(sock) is (number >= first)
            assert descriptors.are_scarce(sock, is_admin=True) is (number >= last)
        assert descriptors.share(8, 300) == min(300, max(8, limit // 8))
