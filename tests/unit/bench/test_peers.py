"""Tests of the proxies that the benchmark compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.identity import KEYS, issuer
from bench.peers import (
    HTTP2,
    LIMITED,
    LOGGED,
    PARTS,
    PROMPT,
    TALK,
    TLS_BOTH,
    TLS_DOWNSTREAM,
    TLS_UPSTREAM,
    TOKENS,
    TRACED,
    TRANSCODED,
    VARIANTS,
    Place,
    is_stale,
)
from bench.scenarios import SCENARIOS, Scenario
from sidecar.config.files import read
from sidecar.config.load import load


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "sidecar" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"a.py": "1", "b/c.py": "2"}, False),
        ({"a.py": "1", "b/c.py": "2", "b/c.so": "compiled"}, False),
        ({"a.py": "1", "b/c.py": "3"}, True),
        ({"a.py": "1"}, True),
        ({"a.py": "1", "b/c.py": "2", "d.py": ""}, True),
    ],
)
def test_a_build_of_other_sources_is_stale(tmp_path: Path, made: dict[str, str], expected: bool) -> None:
    sources = tree(tmp_path / "sources", {"a.py": "1", "b/c.py": "2"})

    assert is_stale(tree(tmp_path / "compiled", made), sources) is expected


def hcm(document: Any) -> Any:
    """Return the connection manager of Envoy's one listener."""
    (chain,) = document["static_resources"]["listeners"][0]["filter_chains"]
    return chain["filters"][0]["typed_config"]


def envoy(directory: Path, variant: str) -> Any:
    return yaml.safe_load(Path(Place(1, 2, 3, directory, variant, 4, 5, Path("/id")).write("envoy.yaml")).read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_envoy_does_what_a_variant_asks_for_and_nothing_else(tmp_path: Path, variant: str) -> None:
    written = envoy(tmp_path, variant)
    (chain,) = written["static_resources"]["listeners"][0]["filter_chains"]
    clusters = {cluster["name"]: cluster for cluster in written["static_resources"]["clusters"]}
    assert (hcm(written)["tracing"] is not None) is (variant == TRACED)
    assert (hcm(written)["access_log"] is not None) is (variant == LOGGED)
    assert (chain["transport_socket"] is not None) is (variant in (TLS_DOWNSTREAM, TLS_BOTH))
    assert (clusters["secure"]["transport_socket"] is not None) is (variant in (TLS_UPSTREAM, TLS_BOTH))
    assert hcm(written)["codec_type"] == ("AUTO" if variant == HTTP2 else "HTTP1")
    transcoder = "envoy.filters.http.grpc_json_transcoder"
    filters = [each["name"] for each in hcm(written)["http_filters"]]
    assert (filters[0] == transcoder) is (variant == TRANSCODED)
    assert ("envoy.filters.http.jwt_authn" in filters) is (variant == TOKENS)
    assert "${" not in json.dumps(written)


def test_envoy_traces_one_request_in_a_hundred(tmp_path: Path) -> None:
    tracing = hcm(envoy(tmp_path, TRACED))["tracing"]
    assert tracing["random_sampling"] == {"value": 1}
    assert "http://127.0.0.1:3/v1/traces" in json.dumps(tracing)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nginx_does_what_a_variant_asks_for_and_nothing_else(tmp_path: Path, variant: str) -> None:
    text = Path(Place(1, 2, 3, tmp_path, variant, 4, 5, Path("/id")).write("nginx.conf")).read_text()
    assert ("backlog=4096 ssl;" in text) is VARIANTS[variant].has_tls
    assert ("backlog=4096 http2;" in text) is (variant == HTTP2)
    assert ("grpc_pass grpc://rpc;" in text) is (variant == HTTP2)
    assert ("proxy_pass https://secure;" in text) is (variant in (TLS_DOWNSTREAM, TLS_UPSTREAM, TLS_BOTH))
    assert ("access_log off;" in text) is (variant != LOGGED)
    assert "${" not in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_policies_of_a_variant_are_valid(tmp_path: Path, variant: str) -> None:
    place = Place(1, 2, 3, tmp_path, variant, 4, 5, tmp_path)
    (tmp_path / KEYS).write_text(issuer().key_set())
    directory = Path(place.policies())
    assert {path.name for path in directory.iterdir()} == {"demo.yaml", "cached.yaml", *VARIANTS[variant].policies}
    loaded = load(read(str(directory)), place.env())
    told = [str(problem) for problem in (*loaded.problems, *loaded.warnings)]
    assert [each for each in told if variant != TOKENS or "may be called by everyone" not in each] == []
    assert "prices" not in (directory / "demo.yaml").read_text(), "its block would cost the other scenarios their start"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_asks_for_what_its_processes_are_set_up_for(scenario: Scenario) -> None:
    variant = VARIANTS[scenario.variant]
    wanted = {
        TLS_UPSTREAM: "/secure/",
        TLS_BOTH: "/secure/",
        TALK: "/talk/",
        PROMPT: "/prompt/",
        PARTS: "/page/",
        LIMITED: "/limited/",
        TOKENS: "/known/",
        HTTP2: ("/orders/", "/http2/", "/bench."),
        TRANSCODED: variant.probe,
    }
    assert scenario.target.startswith(wanted.get(scenario.variant, ("/orders/", "/cached/")))
    assert variant.has_tls is (scenario.variant in (TLS_DOWNSTREAM, TLS_BOTH))
