"""Test of the captured shop: no service has an address of a sidecar, and every protocol gets where it was dialled."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidecar.demo.shop import captured

pytestmark = pytest.mark.e2e


def test_every_protocol_of_the_whole_shop_is_captured() -> None:
    if reason := captured.obstacle():
        pytest.skip(reason)
    command = [sys.executable, "-m", "sidecar.demo.shop.captured"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    seen = {title: answer for title, answer in lines.items() if not title.startswith("captured")}
    assert list(seen.values()) == ["200", "200", "200", "200", "200", "220"], done.stdout
    assert lines["captured beside web"].startswith("http1 to routes "), "the calls of orders"
    beside_orders = {each.rpartition(" ")[0] for each in lines["captured beside orders"].split(", ")}
    assert beside_orders == {
        "http1 to routes", "http2 to routes", "tcp to original", "tls to original", "tls to upstream",
    }  # fmt: skip
