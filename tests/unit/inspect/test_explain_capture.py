"""Tests of `sidecar explain` for redirected connections: where each protocol goes, and requests without a route."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sidecar.commands import main
from tests.support.cases import each

POLICIES = str(Path(__file__).parents[3] / "policies" / "capture.yaml")
SENTENCES = [
    "a request without a route goes on to the address that its client has dialled, over its version of HTTP, and meets "
    "no policy",
    "TLS to *.db.internal passes to an endpoint of the upstream ledger, and is not decrypted",
    "all other TLS passes to the address that its client has dialled",
    "all other protocols pass as TCP to that address, a client that is silent after 0.1s (capture.sniff_timeout)",
    "a connection that passes has 5s to connect (capture.connect_timeout), and ends after 1800s without bytes "
    "(capture.idle_timeout)",
    "at most 500 pass at a time, and more are reset (capture.max_passages)",
]
ONWARDS = "(goes on to the address that its client has dialled)"


def explain(*arguments: str, path: str = POLICIES) -> str:
    return CliRunner().invoke(main, ["explain", path, *arguments]).output


@each(["http://payments/v1", "http://elsewhere/"])
def test_explain_tells_where_each_protocol_goes(url: str) -> None:
    document = json.loads(explain("GET", url, "--listener", "outbound", "--json"))
    assert document["capture"] == SENTENCES
    text = explain("GET", url, "--listener", "outbound")
    assert "\n".join(["", "capture", *(f"    {sentence}" for sentence in SENTENCES), ""]) in text


def test_a_request_without_a_route_goes_on() -> None:
    assert f"takes no route: no route of outbound matches {ONWARDS}" in explain(
        "GET", "http://elsewhere/", "--listener", "outbound"
    )
    document = json.loads(explain("GET", "http://elsewhere/", "--listener", "outbound", "--json"))
    assert document["refusal"]["status"] is None
    assert "(200)" in explain("OPTIONS", "*", "--listener", "outbound")


def test_nothing_is_said_about_other_listeners() -> None:
    assert "capture" not in explain("GET", "/").replace(POLICIES, "")
    assert json.loads(explain("GET", "/", "--json"))["capture"] is None


def test_versions_of_http_that_the_listener_leaves_out_pass_as_tcp(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        'version: 1\nlisteners: {outbound: {address: "127.0.0.1:1", original_destination: true, protocols: [http1]}}\n'
    )
    text = explain("GET", "/", path=str(path))
    assert "    HTTP/2 passes as TCP, because `protocols` leaves it out\n    TLS passes to" in text
