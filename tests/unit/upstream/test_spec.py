"""Tests of an upstream's block in a policy file."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.config.docstrings import DescribingGenerator
from sidecar.upstream.spec import UpstreamSpec


def said(**settings: Any) -> str:
    """Return all problems of an upstream's block, as `path: message` lines."""
    with pytest.raises(ValidationError) as caught:
        UpstreamSpec.model_validate({"endpoints": ["http://a:80"]} | settings)
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


def test_the_example_of_the_format() -> None:
    spec = UpstreamSpec.model_validate(
        {
            "endpoints": ["https://payments-1:8080", "https://payments-2:8080"],
            "load_balancing": {"hash": {"header": "x-user"}},
            "connect_timeout": "500ms",
            "connections": {"max": 256, "idle_timeout": "60s"},
            "health_check": {"path": "/healthz", "interval": "5s", "timeout": "1s", "expect": ["2xx", 304]},
            "ejection": {"consecutive_failures": 5, "eject_for": "10s", "max_eject_for": "5m", "min_healthy": 1},
            "tls": {"ca": "/ca.pem", "cert": "/tls.crt", "key": "/tls.key", "server_name": "payments"},
        }
    )
    assert spec.connect_timeout == 0.5
    assert spec.is_tls
    assert UpstreamSpec.model_validate({"endpoints": ["http://a"]}) == UpstreamSpec(endpoints=("http://a:80",))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"endpoints": None}, "needs either endpoints or discover"),
        ({"discover": {"dns": "a", "port": 80}}, "needs either endpoints or discover"),
        ({"endpoints": []}, "endpoints: Value error, is empty"),
        ({"endpoints": ["http://a:80", "http://A/"]}, "names http://a:80 more than once"),
        ({"endpoints": ["http://a:80/x"]}, "endpoints.0.word: Value error, is not an endpoint"),
        ({"load_balancing": "rr"}, "'round_robin', 'least_request', 'latency' or 'random'"),
        ({"load_balancing": {"hash": {"heder": "x"}}}, "hash.heder: Extra inputs"),
        ({"load_balancing": {"hash": {"header": "x user"}}}, "is not a header's name"),
        ({"ejection": {"max_eject_for": "1s"}}, "make it at least as long"),
        ({"ejection": {"on": ["6xx"]}}, "ejection.on.0: Value error, is not a condition"),
        ({"ejection": {"on": []}}, "ejection.on: Value error, is empty"),
        ({"ejection": {"eject_for": 10}}, "write a duration such as"),
        ({"health_check": {"path": "healthz"}}, "is not a path"),
        ({"health_check": {"path": "/", "expect": ["reset"]}}, "names reset, which is not a status"),
        ({"discover": {"dns": "a b", "port": 80}, "endpoints": None}, "is not a DNS name"),
        ({"tls": {}}, "no endpoint is https://"),
        ({"endpoints": ["https://a"], "tls": {"cert": "/c"}}, "tls: Value error, needs cert and key together"),
        ({"endpoints": ["https://a"], "tls": {"ca": "/c", "verify": False}}, "verify: false ignores"),
        ({"connections": {"max": "3"}}, "valid integer"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], says: str) -> None:
    assert says in said(**settings)


def test_the_schema_describes_every_setting() -> None:
    for model in UpstreamSpec.model_json_schema(schema_generator=DescribingGenerator)["$defs"].values():
        for name, setting in model["properties"].items():
            assert "description" in setting or "$ref" in setting, (model["title"], name)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.10", "10.0.0.10:53"),
        ("127.0.0.1:5353", "127.0.0.1:5353"),
        ("2001:DB8::53", "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
    ],
)
def test_name_servers_are_made_canonical(written: str, canonical: str) -> None:
    spec = UpstreamSpec.model_validate({"endpoints": ["http://a:80"], "resolve": {"nameservers": [written]}})
    assert spec.resolve is not None
    assert spec.resolve.nameservers == (canonical,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resolve": {"nameservers": []}}, "is empty"),
        ({"resolve": {"nameservers": ["dns.test"]}}, "names 'dns.test', which is not the address of a name server"),
        ({"resolve": {"nameservers": ["10.0.0.1:0"]}}, "not the address of a name server"),
        ({"resolve": {"nameservers": ["10.0.0.1:x"]}}, "write it such as 10.0.0.10"),
        ({"resolve": {"ttl": {"min": "10s", "max": "5s"}}}, "max (5s) is less than min (10s)"),
        ({"resolve": {"ttl": {"min": "0s"}}}, "resolve.ttl.min"),
        ({"resolve": {"family": "ipv5"}}, "resolve.family"),
        ({"resolve": {}, "endpoints": ["http://10.0.0.1:80", "unix:/a.sock"]}, "no endpoint has a name to look up"),
        ({"health_check": {"path": "/", "host": "a/b"}}, "'a/b' is not a host"),
        ({"health_check": {"path": "/", "host": "a\r\nb"}}, "is not a host"),
    ],
)
def test_what_is_wrong_with_names_is_said(settings: dict[str, Any], says: str) -> None:
    assert says in said(**settings)
