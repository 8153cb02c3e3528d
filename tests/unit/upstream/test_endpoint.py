"""Tests of endpoints: addresses in policy files, state, and the set that survives reloads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import metrics
from sidecar.upstream.endpoint import (
    TRIAL_INTERVAL,
    Endpoint,
    EndpointAddress,
    EndpointSet,
    Target,
    parse_endpoint,
)
from sidecar.upstream.spec import UpstreamSpec
from tests.support.clock import FakeEnv, make_env


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://payments:8080", ("http://payments:8080", False, "payments", 8080, "")),
        ("http://Payments", ("http://payments:80", False, "payments", 80, "")),
        ("https://payments.prod.svc/", ("https://payments.prod.svc:443", True, "payments.prod.svc", 443, "")),
        ("https://10.0.0.1:8443", ("https://10.0.0.1:8443", True, "10.0.0.1", 8443, "")),
        ("http://[2001:DB8:0::1]:80", ("http://[2001:db8::1]:80", False, "2001:db8::1", 80, "")),
        ("unix:/run/App.sock", ("unix:/run/App.sock", False, "", 0, "/run/App.sock")),
    ],
)
def test_parts(text: str, parts: tuple[object, ...]) -> None:
    assert parse_endpoint(text) == EndpointAddress(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("payments:8080", "is not an endpoint; .* such as http://payments:8080$"),
        ("ftp://payments", "is not an endpoint"),
        ("http://payments/v1", "its address alone, such as http://payments$"),
        ("http://payments?x=1", "its address alone, such as http://payments$"),
        ("http://user:secret@payments", "its address alone, such as http://payments$"),
        ("http://", "neither a name nor an IP address"),
        ("http://pay ments", "neither a name nor an IP address"),
        ("http://-payments", "neither a name nor an IP address"),
        ("http://pay\nments", "neither a name nor an IP address"),
        ("http://payments:0", "1 to 65535"),
        ("http://payments:65536", "1 to 65535"),
        ("http://payments:", "1 to 65535"),
        ("http://payments:٨٠", "1 to 65535"),
        ("http://[10.0.0.1]:80", "not an IPv6 address"),
        ("unix:run/app.sock", "absolute path"),
        ("unix:///run/app.sock", "write unix:/run/app.sock"),
        ("unix:/" + "x" * 107, "the system allows 107"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_endpoint(text)


@given(st.text() | st.text(alphabet="htps:/[]@.%?#unix0123456789-a", max_size=40))
def test_the_canonical_form_is_stable_and_nothing_else_is_raised(text: str) -> None:
    try:
        address = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(address.url) == address


# ----- state of an endpoint


def spec(*urls: str, **settings: Any) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"endpoints": list(urls), **settings})


def test_an_endpoint_is_up_until_someone_says_otherwise() -> None:
    endpoint = Endpoint("http://a:80")
    assert (endpoint.key, endpoint.host, endpoint.port, endpoint.is_tls) == ("http://a:80", "a", 80, False)
    assert endpoint.is_up
    assert endpoint.is_available(0.0)


def test_neither_judge_overrules_the_other() -> None:
    endpoint = Endpoint("http://a:80")
    endpoint.set_health(False)
    endpoint.eject(10.0, 20.0)
    assert (endpoint.state, endpoint.is_up) == ("unhealthy", False)
    endpoint.set_health(True)
    assert (endpoint.state, endpoint.is_up) == ("ejected", False)
    endpoint.set_health(False)
    endpoint.restore()
    assert not endpoint.is_up
    endpoint.set_health(True)
    assert endpoint.is_up


def test_after_an_ejection_there_is_one_request_a_second() -> None:
    endpoint = Endpoint("http://a:80")
    endpoint.eject(10.0, 20.0)
    assert not endpoint.is_available(19.9)
    assert endpoint.is_available(20.0)
    endpoint.begin_trial(20.0)
    assert endpoint.state == "on_trial"
    assert not endpoint.is_available(20.0 + TRIAL_INTERVAL / 2)
    assert endpoint.is_available(20.0 + TRIAL_INTERVAL), "a trial of which nothing is heard is over"


def test_endpoints_that_stay_are_the_same_ones_and_those_that_go_are_told() -> None:
    env = make_env()
    endpoints = EndpointSet("app", spec("http://a:80", "http://b:80"), env)
    a, b = endpoints.members
    gone: list[tuple[Endpoint, ...]] = []
    unsubscribe = endpoints.on_removal(gone.append)
    endpoints.retune(spec("http://c", "http://B:80/"))
    assert [e.url for e in endpoints.members] == ["http://c:80", "http://b:80"]
    assert endpoints.members[1] is b
    assert gone == [(a,)]
    unsubscribe()
    endpoints.replace([])
    assert gone == [(a,)]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["http://a:80", "http://b:80", "http://c:80"]),
            st.tuples(st.integers(0, 1), st.integers(1, 2), st.booleans(), st.sampled_from(["", "x", "y"])),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([{}, {"x": 0.3, "y": 0.7}]),
)
def test_changes_lead_to_the_same_set_as_its_last_targets_alone(
    found: list[dict[str, tuple[int, int, bool, str]]], shares: dict[str, float]
) -> None:
    def make() -> EndpointSet:
        endpoints = EndpointSet("orders", spec("http://a:80"), make_env())
        endpoints._shares = shares
        return endpoints

    changed = make()
    targets: list[Target] = []
    for each in found:  # an unchanged target is the same object, as in discovery
        known = {target: target for target in targets}
        fresh = [Target(url, *parts) for url, parts in each.items()]
        targets = [known.get(target, target) for target in fresh]
        changed.assign(targets, spills=True)
    whole = make()
    whole.assign(targets, spills=True)

    def seen(endpoints: EndpointSet) -> list[object]:
        tiers = [[endpoint.url for endpoint in tier] for tier in (endpoints.preferred, *endpoints.tiers)]
        members = [(each.url, each.weight, each.zone, each.is_ready, each.is_up) for each in endpoints.members]
        return [members, tiers, endpoints.is_weighted, endpoints.spills]

    assert seen(changed) == seen(whole)


def test_discovered_endpoints_stay_when_the_policy_changes() -> None:
    discovered = UpstreamSpec.model_validate({"discover": {"dns": "app.svc", "port": 443, "scheme": "https"}})
    endpoints = EndpointSet("app", discovered, make_env())
    assert endpoints.members == ()
    endpoints.replace(["https://10.0.0.1:443"])
    before: tuple[Endpoint, ...] = endpoints.members
    assert [endpoint.server_name for endpoint in before] == ["app.svc"]
    endpoints.retune(discovered.model_copy(update={"connect_timeout": 9.0}))
    assert endpoints.members == before


def test_the_name_for_tls_is_the_policys_else_the_hosts() -> None:
    endpoints = EndpointSet("app", spec("https://a", tls={"server_name": "payments"}), make_env())
    assert endpoints.members[0].server_name == "payments"
    endpoints.retune(spec("https://a"))
    assert endpoints.members[0].server_name == "a"


def counts(env: FakeEnv) -> dict[str, float]:
    states = ("up", "failing", "unhealthy", "ejected", "on_trial")
    return {state: env.meter.value(metrics.ENDPOINT_UP, state=state) for state in states}


def test_an_ejection_that_is_over_is_shown_as_a_trial_also_without_traffic() -> None:
    env = make_env()
    endpoints = EndpointSet("app", spec("http://a:80"), env)
    endpoints.members[0].eject(env.now(), env.now() + 5)
    assert counts(env)["ejected"] == 1
    env.advance(6)
    assert counts(env) == {"up": 0, "failing": 0, "unhealthy": 0, "ejected": 0, "on_trial": 1}
    assert endpoints.describe()["endpoints"][0]["state"] == "on_trial"
    assert endpoints.count("ejected") == 1, "to the balancer nothing has changed"


def test_gauges_and_facts() -> None:
    env = make_env()
    endpoints = EndpointSet("app", spec("http://a:80", "http://b:80", "http://c:80"), env)
    endpoints.members[0].set_health(False)
    endpoints.members[1].eject(env.now(), env.now() + 5)
    endpoints.members[1].begin_trial(env.now())
    assert counts(env) == {"up": 1, "failing": 0, "unhealthy": 1, "ejected": 0, "on_trial": 1}
    facts = endpoints.describe()["endpoints"][1]
    assert facts == {
        "url": "http://b:80",
        "state": "on_trial",
        "in_flight": 0,
        "consecutive_failures": 0,
        "ejections": 0,
        "ejected_for": 1.0,
    }
