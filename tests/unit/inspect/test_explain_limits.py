"""Tests of `sidecar explain` for rate limits: the limits of a request, and its keys."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sidecar.commands import main

POLICIES = str(Path(__file__).parents[3] / "policies" / "rate-limit.yaml")
UPSTREAM = [
    "upstream: 1000 per second, with a burst of 200, for the upstream catalogue in this sidecar; all requests count "
    "together",
    "client: 500 per second, with a burst of 500, for the upstream catalogue in this sidecar; the key is the address "
    "of the client (client.address)",
]


def sentences(path: str, *arguments: str) -> list[str]:
    """Return the sentences on the limits of the route, which text and JSON document have alike."""
    text = CliRunner().invoke(main, ["explain", POLICIES, "GET", path, *arguments]).output
    document = CliRunner().invoke(main, ["explain", POLICIES, "GET", path, *arguments, "--json"]).output
    found: list[str] = json.loads(document)["route"]["rate_limit"]
    assert "\n".join(["", "rate_limit", *(f"    {each}" for each in found), ""]) in text
    assert [each for each in found if each in UPSTREAM] == UPSTREAM
    return [each for each in found if each not in UPSTREAM]


def test_explain_tells_the_key_of_each_limit() -> None:
    tenant, _, trial = sentences("/search", "-H", "x-tenant: acme")
    assert tenant.startswith("tenant: 10 per second, with a burst of 5, for the route search in this sidecar; ")
    assert tenant.endswith("; the key is acme (header.x-tenant)")
    assert trial.endswith("; nothing is refused: mode is observe")
    tenant, _, _ = sentences("/search")
    assert tenant.endswith("; the key is the address of the client (client.address)")


def test_explain_tells_costs_delays_and_what_counts() -> None:
    (report,) = sentences("/report?rows=80")
    assert report.endswith("; the request counts as 80")
    (images,) = sentences("/images/1.png")
    assert images.startswith("bytes: 160 per second, with a burst of 319, in units of 64KiB of answers, for the route ")
    assert images.endswith("; the request counts as one, or as one for each 64KiB of its answer's body")
    (fetches,) = sentences("/products/7")
    assert fetches.endswith("; the key is 7 (path.id); only what the cache does not answer counts")
    (pace,) = sentences("/mail")
    assert pace.endswith("; all requests count together; a request over the limit waits for up to 500ms")


def test_explain_says_that_it_knows_no_caller(tmp_path: Path) -> None:
    policies = tmp_path / "p.yaml"
    policies.write_text("""
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
identities: {partners: {api_key: {file: keys.yaml}}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9001"]}}
routes:
  - name: order
    match: {path_prefix: /}
    upstream: app
    authenticate: {any_of: [partners]}
    rate_limit:
      - {name: each, rate: 10/s, key: caller}
      - {name: tenant, rate: 10/s, key: caller.claims.tenant, otherwise: client.address}
""")
    output = CliRunner().invoke(main, ["explain", str(policies), "GET", "/", "--json"]).output
    each, tenant = json.loads(output)["route"]["rate_limit"]
    unknown = "; without a token or a key of a caller, the "
    assert each.endswith(unknown + "request counts together with all others that have none")
    assert tenant.endswith(unknown + "key is the address of the client (client.address)")


def test_a_block_on_both_sides_of_the_cache_is_listed_once() -> None:
    text = CliRunner().invoke(main, ["explain", POLICIES, "GET", "/products/7"]).output
    assert text.count("\nrate_limit\n") == 2, "the sentences, and the values of the route's block"
    assert text.count("\nrate_limit of catalogue\n") == 1


def test_explain_tells_what_holds_for_a_limit_in_a_store() -> None:
    policies = str(Path(POLICIES).with_name("fleet-limits.yaml"))
    text = CliRunner().invoke(main, ["explain", policies, "GET", "/search", "-H", "x-tenant: acme"]).output
    assert "for the route search in all processes that share the store fleet; the key is acme (header.x-tenant)" in text
    assert "while the store is away: a fair share in each process" in text


def test_explain_tells_the_quotas_of_a_request() -> None:
    policies = str(Path(POLICIES).with_name("quotas.yaml"))
    arguments = ["explain", policies, "GET", "/search?rows=7"]
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)["route"]["quota"]
    text = CliRunner().invoke(main, arguments).output
    assert "\n".join(["", "quota", *(f"    {each}" for each in found), ""]) in text
    assert found == [
        "day: 3 per day, from 06:00 in UTC, for the route search, counted in the store disk; the key is the address of "
        "the client (client.address); while the store is away: a share of what was left in each process",
        "rows: 1000 per hour, for the route search, in this process until it ends; the key is the address of the "
        "client (client.address); the request counts as 7",
    ]
