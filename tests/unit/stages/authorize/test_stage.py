"""Tests of `authorize`: which rule decides, and what a refusal tells."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.exchange import Caller
from sidecar.core.outcome import Outcome
from sidecar.stages.authorize import networks, stage
from sidecar.stages.authorize.networks import Networks
from sidecar.stages.authorize.rules import Decision, Rules, scopes_of
from sidecar.stages.authorize.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import context, exchange

ALLOWED = Decision(True, 0)
REFUSED = Decision(False, -1)


def build(block: Any, env: FakeEnv | None = None) -> Any:
    return stage.build(Spec.model_validate(block), context(env or make_env()))


def caller(id: str = "alice", **claims: Any) -> Caller:
    return Caller(id, "corporate", claims, b"authorization")


def decide(block: Any, x: Any) -> Decision:
    return Rules(Spec.model_validate(block)).decide(x)


@pytest.mark.parametrize(
    ("claims", "is_allowed"),
    [
        ({"scope": "orders:read"}, True),
        ({"scope": "mail orders:read  orders:write"}, True),
        ({"scp": ["mail", "orders:read"]}, True),
        ({"scp": "mail orders:read"}, True),
        ({"scope": ["orders:read"]}, True),
        ({"scope": "orders:reader"}, False),
        ({"scope": "myorders:read"}, False),
        ({"scope": "orders:read,mail"}, False),
        ({"scope": "Orders:Read"}, False),
        ({"scope": "orders:read\tmail"}, False),
        ({"scope": ["orders:read mail"]}, False),
        ({"scope": "", "scp": ["orders:read"]}, False),
        ({"scope": {"orders:read": True}}, False),
        ({"scope": [["orders:read"], 7, None]}, False),
        ({"scope": None}, False),
        ({}, False),
    ],
)
def test_scopes_are_whole_words(claims: dict[str, Any], is_allowed: bool) -> None:
    found = decide({"scopes": ["orders:read"]}, exchange(caller=caller(**claims)))
    assert found == (ALLOWED if is_allowed else REFUSED)


def test_all_scopes_of_a_rule_are_needed_and_no_anonymous_request_has_any() -> None:
    block = {"scopes": ["a", "b"]}
    assert decide(block, exchange(caller=caller(scope="b c a"))) == ALLOWED
    assert decide(block, exchange(caller=caller(scope="a"))) == REFUSED
    assert decide(block, exchange()) == REFUSED
    assert scopes_of(None) == frozenset()


def test_the_first_rule_that_allows_decides_and_without_one_the_request_is_refused() -> None:
    block = [
        {"allow": {"scopes": ["orders:read"], "methods": ["GET", "HEAD"]}},
        {"allow": {"callers": ["batch"], "networks": ["10.1.0.0/16"]}},
        {"allow": {"when": "caller.claims.tenant == path.tenant && request.method == 'PUT'"}},
        {"allow": {"headers": {"X-Tier": ["gold", "silver"]}, "path": {"tenant": "acme"}}},
    ]

    def found(
        method: str = "GET", *, by: Any = None, at: str = "192.0.2.1", tenant: str = "acme", tier: str = ""
    ) -> int:
        x = exchange(method, headers={"x-tier": tier} if tier else {}, caller=by, client_address=at)
        x.captures = {"tenant": tenant}
        decision = decide(block, x)
        assert decision.is_allowed == (decision.rule >= 0)
        return decision.rule

    reader, batch, owner = caller(scope="orders:read"), caller("batch"), caller(tenant="acme")
    assert found(by=reader) == 0
    assert found("DELETE", by=reader) == -1
    assert found("DELETE", by=batch, at="10.1.2.3") == 1
    assert found(by=batch, at="10.2.2.3") == -1
    assert found(by=caller("batches"), at="10.1.2.3") == -1
    assert found("PUT", by=owner) == 2
    assert found("PUT", by=owner, tenant="umbrella") == -1
    assert found("PUT") == -1
    assert found(tier="silver") == 3
    assert found(tier="silver", tenant="umbrella") == -1
    assert found(tier="golden") == -1


def test_denied_networks_count_first_wherever_they_stand() -> None:
    block = [{"allow": {}}, {"deny": {"networks": ["203.0.113.0/24", "2001:db8::/32"]}}]
    for address, expected in [
        ("192.0.2.1", ALLOWED),
        ("203.0.113.7", Decision(False, 1)),
        ("::ffff:203.0.113.7", Decision(False, 1)),
        ("2001:DB8::1", Decision(False, 1)),
        ("fe80::1%eth0", ALLOWED),
        ("unknown", Decision(False, 1)),
        ("", Decision(False, 1)),
    ]:
        assert decide(block, exchange(client_address=address)) == expected, address
    assert decide({"networks": ["0.0.0.0/0", "::/0"]}, exchange(client_address="unknown")) == REFUSED


@pytest.mark.parametrize("network", ["10.1.0.0/16", "::ffff:10.1.0.0/112"])
def test_an_ipv4_address_in_ipv6_form_is_the_same_client(network: str) -> None:
    assert decide({"networks": [network]}, exchange(client_address="10.1.2.3")) == ALLOWED
    assert decide({"networks": [network]}, exchange(client_address="::ffff:10.1.2.3")) == ALLOWED
    assert decide({"networks": [network]}, exchange(client_address="10.2.2.3")) == REFUSED
    when = {"when": "client.address == '10.1.2.3'"}
    assert decide(when, exchange(client_address="::FFFF:10.1.2.3")) == ALLOWED
    assert decide(when, exchange()) == REFUSED


def test_results_for_addresses_are_cached_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "MAX_CACHED", 3)
    found = Networks(Spec.model_validate({"networks": ["10.0.0.0/8"]}).rules[0].allow.networks)  # type: ignore[union-attr]
    for number in range(10):
        assert found.find(f"10.0.0.{number}") is True
        assert found.find("x") is None
        assert len(found._cached) <= 3


def test_a_refusal_tells_a_stranger_nothing_of_the_rules() -> None:
    x = exchange(caller=caller("mallory", scope="mail"), client_address="192.0.2.1")
    outcome = build({"scopes": ["orders:admin"]}).admit(x)
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.reason, outcome.failure.grpc) == (403, "forbidden", 7)  # type: ignore[union-attr]
    assert (outcome.refusal.policy, outcome.refusal.where) == ("authorize", "policies.yaml:7")
    assert outcome.header(b"www-authenticate") == b'Bearer error="insufficient_scope"'
    assert "orders:admin" not in outcome.refusal.detail + outcome.cause + repr(outcome.headers)
    assert outcome.cause == "the caller mallory at 192.0.2.1 meets no rule", "for the log only"


@pytest.mark.parametrize(
    ("block", "x", "cause"),
    [
        ({"scopes": ["a"]}, exchange(), "an anonymous caller at an unknown address meets no rule"),
        (
            {"scopes": ["a"], "methods": ["POST"]},
            exchange(caller=caller()),
            "the caller alice at an unknown address meets no rule",
        ),
        ({"scopes": ["a"], "when": "request.method == 'POST'"}, exchange(caller=caller()), "the caller alice"),
        ({"callers": ["a"]}, exchange(caller=caller("x" * 500)), f"the caller {'x' * 100} at an unknown address"),
        (
            [{"allow": {"scopes": ["a"]}}, {"deny": {"networks": ["0.0.0.0/0"]}}],
            exchange(caller=caller(), client_address="192.0.2.1"),
            "the caller alice at 192.0.2.1 is denied by rule 2",
        ),
    ],
)
def test_other_refusals_have_no_challenge(block: Any, x: Any, cause: str) -> None:
    outcome = build(block).admit(x)
    assert outcome.cause.startswith(cause)
    assert outcome.header(b"www-authenticate") is None


def test_observing_counts_who_would_be_refused() -> None:
    env = make_env()
    found = build({"mode": "observe", "scopes": ["a"]}, env)
    assert found.admit(exchange()) is None
    assert found.admit(exchange(caller=caller(scope="a"))) is None
    assert env.meter.value(metrics.WOULD_REFUSE, policy="authorize", route="order") == 1


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ([], "at least 1"),
        ({}, "required"),
        ({"scopes": []}, "at least 1"),
        ({"scopes": ["orders:read mail"]}, "not one scope"),
        ({"methods": ["get"]}, "write GET"),
        ({"networks": ["10.0.0.1/8"]}, "not a network"),
        ({"allow": {"scopes": ["a"]}}, "begin this one with a dash"),
        ([{"allow": {}, "deny": {"networks": ["::/0"]}}], "takes one of"),
        ([{}], "takes one of"),
        ({"when": "client.port == 1"}, "not a part of"),
        ({"when": "path.a.b == 'x'"}, "not a member"),
        ({"when": "path == 'x'"}, "has no value"),
        ({"headers": {"x y": "1"}}, "not the name"),
    ],
)
def test_what_cannot_be_meant_is_an_error(block: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Spec.model_validate(block)


@pytest.mark.parametrize(
    ("rules", "facts", "is_challenged"),
    [
        ([{"allow": {"scopes": ["a"]}}], {}, True),
        ([{"allow": {"callers": ["alice"]}}], {}, True),
        ([{"allow": {"when": "caller.claims.tenant == 'acme'"}}], {}, True),
        ([{"allow": {"when": "request.method == 'PUT'"}}], {}, False),
        ([{"allow": {"scopes": ["a"], "methods": ["GET"]}}], {}, True),
        ([{"allow": {"scopes": ["a"], "methods": ["PUT"]}}], {}, False),
        ([{"allow": {"scopes": ["a"], "headers": {"x-tier": ["gold"]}}}], {}, False),
        ([{"allow": {"scopes": ["a"], "networks": ["10.0.0.0/8"]}}], {"client_address": "10.0.0.1"}, True),
        ([{"allow": {"scopes": ["a"], "networks": ["10.0.0.0/8"]}}], {"client_address": "192.0.2.1"}, False),
        ([{"deny": {"networks": ["0.0.0.0/0"]}}, {"allow": {"scopes": ["a"]}}], {"client_address": "192.0.2.1"}, False),
        ([{"allow": {"scopes": ["a"]}}], {"caller": caller()}, False),
    ],
)
def test_credentials_are_asked_for_where_they_could_help(rules: Any, facts: Any, is_challenged: bool) -> None:
    challenges = [b'Bearer realm="shop"', b'ApiKey realm="shop"']
    ctx = context(make_env(), resources={("challenges", "order"): challenges}, has_callers=True)
    outcome = stage.build(Spec.model_validate({"rules": rules}), ctx).admit(exchange(**facts))
    assert isinstance(outcome, Outcome)
    assert outcome.status == (401 if is_challenged else 403)
    if is_challenged:
        assert [value for name, value in outcome.headers if name == b"www-authenticate"] == challenges
        assert (outcome.refusal.policy, outcome.reason) == ("authorize", "unauthenticated")
