"""Tests of captured services in network namespaces, with the rules of nftables and of iptables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("unshare", "ip", "nft", "iptables", "ip6tables", "iptables-save", "curl")


@cache
def _reason() -> str:
    """Return why namespaces cannot be used here; empty if they can."""
    if missing := [each for each in NEEDED if shutil.which(each) is None]:
        return f"needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root"
    probe = "ip link add here type veth peer name there && nft add table inet a && iptables -t nat -L"
    done = subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True, check=False)
    return "" if done.returncode == 0 else "needs network namespaces with NAT"


@pytest.fixture(scope="module", params=["nft", "iptables"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := _reason():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("captured")
    command = ["unshare", "-n", sys.executable, "-m", "tests.e2e.captured", str(directory), request.param]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def value(seen: dict[str, Any], name: str, **labels: str) -> int:
    """Return the sum of the series of a metric that have these labels."""
    wanted = [f'{key}="{each}"' for key, each in labels.items()]
    lines = [line for line in seen["metrics"] if line.startswith(name) and all(each in line for each in wanted)]
    assert lines
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def test_http_takes_routes_by_host_or_goes_on_to_its_destination(seen: dict[str, Any]) -> None:
    assert seen["http1"] == seen["http1_over_ipv6"] == ["200 routed via", "200 original via"]
    assert seen["http2"] == "2 200"


def test_a_slow_request_line_takes_its_route(seen: dict[str, Any]) -> None:
    assert seen["slow_http1"] == "routed via"


def test_a_connection_that_was_silent_takes_the_route_of_its_first_request(seen: dict[str, Any]) -> None:
    assert seen["late_http1"] == "200 routed via"
    assert [each["received"] for each in seen["ended"] if each.get("reason") == "routes"] == [0]


def test_tls_goes_to_the_upstream_of_its_server_name_or_on_and_is_not_decrypted(seen: dict[str, Any]) -> None:
    assert seen["tls"] == ["200 one", "200 other"]
    named = {each["server_name"]: each.get("upstream") for each in seen["ended"] if "server_name" in each}
    assert named == {"one.test": None, "other.test": "other"}


def test_servers_that_speak_first_are_reached_and_half_closes_pass_on(seen: dict[str, Any]) -> None:
    for key in ("server_first", "server_first6", "bulk"):
        assert seen[key] == ["220 hello", True], key


def test_connections_to_the_sidecar_and_loops_are_refused_and_counted(seen: dict[str, Any]) -> None:
    assert seen["loopback"] == "ConnectionResetError"
    assert value(seen, "sidecar_capture_failures_total", reason="no_destination") == 1
    assert seen["loops"][0] == "ConnectionResetError"
    assert seen["loops"][1].startswith("508 "), seen["loops"]
    assert seen["loop_log"][0] == "loop"
    assert set(seen["loop_log"]) <= {"loop", "connect"}, (
        "the reset may meet the sidecar's own connection while it opens"
    )


def test_a_destination_where_nobody_listens_is_reset_and_counted(seen: dict[str, Any]) -> None:
    assert seen["nobody_listens"] == "ConnectionResetError"
    assert value(seen, "sidecar_capture_failures_total", reason="connect") == 1


def test_rules_are_idempotent_leave_ports_out_and_can_be_undone(seen: dict[str, Any]) -> None:
    assert seen["is_idempotent"]
    assert seen["skipped"] == "200 skipped"
    assert seen["is_undone"]
    assert seen["undone"] == "200 original"


def test_all_connections_are_counted_and_none_is_left(seen: dict[str, Any]) -> None:
    counted = {
        (protocol, to): value(seen, "sidecar_capture_connections_total", protocol=protocol, to=to)
        for protocol, to in (
            ("http1", "routes"),
            ("http2", "routes"),
            ("tls", "upstream"),
            ("tls", "original"),
            ("tcp", "original"),
        )
    }
    assert list(counted.values()) == [4, 1, 1, 1, 5]
    assert value(seen, "sidecar_capture_passages") == 0
    assert value(seen, "sidecar_capture_traffic_bytes_total", direction="sent") > 2_000_000
    assert seen["bugs"] == []
