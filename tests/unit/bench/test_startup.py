"""Tests of the measurement of CPU until ready."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from bench import startup
from bench.peers import Place


def place(tmp_path: Path, port: int, admin_port: int = 1) -> Place:
    return Place(port, admin_port, 1, tmp_path)


def test_without_an_endpoint_a_port_that_accepts_is_ready(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert startup.is_ready(place(tmp_path, port), "")
    assert not startup.is_ready(place(tmp_path, port), "")


def test_an_endpoint_that_cannot_be_reached_is_not_ready(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not startup.is_ready(place(tmp_path, 1, port), "/readyz")


def test_the_cpu_of_a_start_is_that_until_it_is_ready(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    work = f"sum(range(10**6)); open({str(ready)!r}, 'w').close(); import time; time.sleep(600)"

    assert startup.cpu_until(ready.exists, [sys.executable, "-S", "-c", work], tmp_path / "output", {}) > 0


def test_a_start_that_fails_tells_what_the_process_said(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "raise SystemExit('no such policies')"]

    with pytest.raises(RuntimeError, match="no such policies"):
        startup.cpu_until(lambda: False, argv, tmp_path / "output", {})


def test_a_ratio_is_the_median_of_the_turns() -> None:
    found = {"this": [0.2, 0.8, 0.3], "other": [1.0, 2.0, 1.0]}  # the machine was slower in the second

    assert startup.ratio(found, "this", "other") == 0.3
    assert startup.ratio(found, "this", "envoy") is None


def test_the_table_says_when_each_is_ready() -> None:
    rows = startup.table({"sidecar": [0.6, 0.8, 0.7], "envoy": [0.1, 0.1, 0.1], "nginx": [0.01, 0.01, 0.01]}, "envoy")

    assert rows[2:] == [
        "| sidecar | 0.700 | 7.00x | `/readyz` answers 200 |",
        "| envoy | 0.100 |  | `/ready` answers 200 |",
        "| nginx | 0.010 | 0.10x | its port accepts a connection |",
    ]
