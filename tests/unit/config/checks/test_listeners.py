"""Tests of the checks of listeners for redirected connections."""

from __future__ import annotations

from sidecar.config.files import Source
from sidecar.config.load import load
from tests.support.cases import each

TAKES = "original_destination: true"


@each([
    (f'address: "127.0.0.1:1", {TAKES}', ""),
    ('address: "127.0.0.1:1", capture: {max_passages: 5}', "holds for redirected connections only; add original_d"),
    (f'address: "unix:/run/a.sock", {TAKES}', "needs a TCP address, since only TCP can be redirected"),
    (f'address: "127.0.0.1:1", {TAKES}, tls: {{cert: /c, key: /k}}', "stands beside `tls`, but TLS of clients is for"),
    (f'address: "127.0.0.1:0", {TAKES}', "has port 0, which `sidecar capture` cannot know"),
    (f'address: "127.0.0.1:1", {TAKES}, capture: {{server_names: {{a.test: nope}}}}', "nope"),
])  # fmt: skip
def test_a_listener_that_cannot_take_redirected_connections_is_told(case: tuple[str, str]) -> None:
    text = f"version: 1\nlisteners: {{outbound: {{{case[0]}}}}}\n"
    loaded = load([Source("p.yaml", text.encode())], {})
    found = [str(problem) for problem in (*loaded.problems, *loaded.warnings)]
    assert bool(found) == bool(case[1])
    assert any(case[1] in problem for problem in found) or not found, found
