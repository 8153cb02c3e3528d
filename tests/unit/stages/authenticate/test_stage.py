from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import DEFAULT, SHEDDABLE, Caller, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Wait
from sidecar.engine.pipeline import Pipeline
from sidecar.http2.hpack import UNINDEXED
from sidecar.identity.verdict import Rejection, Unavailable
from sidecar.stages import BY_NAME
from sidecar.stages.authenticate.stage import MOST_LATE
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import ScriptedService, context, exchange


class Listed:
    """Identity that gives the same verdict on each request that has its field."""

    def __init__(self, name: str, verdict: Any, scheme: bytes = b"Bearer", field: bytes = b"authorization") -> None:
        self.name, self.verdict, self.scheme, self.field = name, verdict, scheme, field

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Any:
        if lower.find(b"\n%b:" % self.field) < 0:
            return None
        return self.verdict() if callable(self.verdict) else self.verdict


ALICE = {"tenant": "acme", "roles": ["a", "b,c"], "level": 3, "name": "Élise\r\nx-admin: 1"}


def alice() -> Caller:
    return Caller("alice", "corporate", dict(ALICE), b"authorization")


def stage(
    *identities: Listed, env: FakeEnv | None = None, owned: frozenset[bytes] = frozenset(), by_caller: Any = None,
    **block: Any,
) -> Any:  # fmt: skip
    found: dict[tuple[str, str], Any] = {("identity", each.name): each for each in identities}
    found["caller_fields", "order"] = owned
    found["criticality", "order"] = by_caller or {}
    kind = BY_NAME["authenticate"]
    spec = kind.spec.model_validate({"any_of": [each.name for each in identities], **block})
    return kind.build(spec, context(env, resources=found))


def admit(found: Any, headers: Any = (), **facts: Any) -> tuple[Outcome | None, Exchange]:
    x = exchange(headers=headers, **facts)
    outcome = found.admit(x)
    assert not isinstance(outcome, Wait)
    return outcome, x


def challenges(outcome: Outcome | None) -> list[bytes]:
    assert outcome is not None
    return [value for name, value in outcome.headers if name == b"www-authenticate"]


BEARER = {"authorization": "Bearer x"}


def test_a_caller_is_known_to_the_stages_further_in() -> None:
    outcome, x = admit(stage(Listed("corporate", alice)), BEARER)
    assert outcome is None
    assert x.caller is not None
    assert x.caller.id == "alice"
    assert x.fork(2, "retry").caller is x.caller
    assert x.header(b"authorization") == b"Bearer x"


def test_no_credentials_are_answered_without_an_error_code() -> None:
    both = stage(Listed("corporate", alice), Listed("partners", None, b"ApiKey", b"x-api-key"))
    outcome, x = admit(both)
    assert outcome is not None
    assert (outcome.status, outcome.reason, x.caller) == (401, "unauthenticated", None)
    assert challenges(outcome) == [b'Bearer realm=""', b'ApiKey realm=""']
    assert outcome.refusal.where == "policies.yaml:7"


def test_wrong_credentials_are_told_apart_in_the_log_only() -> None:
    outcome, _ = admit(stage(Listed("corporate", Rejection("the token expired 7 s ago"))), BEARER)
    assert outcome is not None
    assert (outcome.status, challenges(outcome)) == (401, [b'Bearer realm="", error="invalid_token"'])
    assert outcome.cause == "the token expired 7 s ago"
    assert "expired 7" not in outcome.refusal.detail


def test_ambiguous_credentials_are_a_bad_request() -> None:
    outcome, _ = admit(stage(Listed("corporate", Rejection("two", is_ambiguous=True))), BEARER)
    assert outcome is not None
    assert (outcome.status, challenges(outcome)) == (400, [b'Bearer realm="", error="invalid_request"'])


def test_a_wrong_key_is_no_invalid_token() -> None:
    for verdict, status in ((Rejection("unknown"), 401), (Rejection("two", is_ambiguous=True), 400)):
        both = stage(Listed("corporate", None), Listed("partners", verdict, b"ApiKey", b"x-api-key"))
        outcome, _ = admit(both, {"x-api-key": "x"})
        assert outcome is not None
        assert (outcome.status, challenges(outcome)) == (status, [b'Bearer realm=""', b'ApiKey realm=""'])


def test_what_an_external_server_forbids_is_forbidden() -> None:
    rejection = Rejection("https://check.example refused the request with 403")
    rejection.is_forbidden = True
    outcome, _ = admit(stage(Listed("corporate", rejection)), BEARER)
    assert outcome is not None
    assert (outcome.status, outcome.reason, challenges(outcome)) == (403, "forbidden", [])


def test_what_cannot_be_decided_is_unavailable_and_not_unauthenticated() -> None:
    undecided = Listed("corporate", Unavailable("the issuer is away", 7.0))
    outcome, _ = admit(stage(undecided, Listed("other", Rejection("wrong"))), BEARER)
    assert outcome is not None
    assert (outcome.status, outcome.reason, outcome.refusal.retry_after) == (503, "unverifiable", 7.0)
    assert outcome.cause == "the issuer is away"
    outcome, x = admit(stage(undecided, Listed("other", alice)), BEARER)
    assert outcome is None
    assert x.caller is not None


def test_the_first_that_accepts_wins_and_the_own_rejection_tells_more_than_a_foreign_one() -> None:
    foreign, own = Rejection("another issuer", is_foreign=True), Rejection("expired")
    for verdicts in ([foreign, own], [own, foreign]):
        outcome, _ = admit(stage(*(Listed(f"i{n}", each) for n, each in enumerate(verdicts))), BEARER)
        assert outcome is not None
        assert outcome.cause == "expired"
    outcome, x = admit(stage(Listed("one", foreign), Listed("two", alice), Listed("three", own)), BEARER)
    assert outcome is None
    assert x.caller is not None


def test_optional_lets_the_anonymous_in_but_nobody_with_wrong_credentials() -> None:
    found = stage(Listed("corporate", Rejection("expired")), optional=True)
    outcome, x = admit(found)
    assert (outcome, x.caller, x.is_unverified) == (None, None, False)
    outcome, _ = admit(found, BEARER)
    assert outcome is not None
    assert outcome.status == 401


def test_observe_lets_everyone_in_as_anonymous_and_counts() -> None:
    env = make_env()
    found = stage(Listed("corporate", Rejection("expired")), env=env, mode="observe", forward={"caller": "x-caller"},
                  owned=frozenset((b"x-caller",)))  # fmt: skip
    outcome, x = admit(found, {**BEARER, "x-caller": "admin"})
    assert (outcome, x.caller, x.is_unverified) == (None, None, True)
    assert x.header(b"x-caller") is None
    assert x.fork(2, "retry").is_unverified
    assert env.meter.value("sidecar.observed.refusals", policy="authenticate", route="order") == 1


FORWARD = {"caller": "x-caller", "claims": {"tenant": "x-tenant", "roles": "x-roles", "level": "x-level",
                                            "name": "x-name", "nothing": "x-nothing"}}  # fmt: skip
SENT = [(b"authorization", b"Bearer x")]
OWNED = frozenset((b"x-caller", b"x-tenant", b"x-roles", b"x-level", b"x-name", b"x-nothing"))


def test_fields_about_the_caller_replace_those_of_the_client_and_their_twins() -> None:
    spoofed = [
        (b"x-caller", b"admin"), (b"X-Caller", b"admin"), (b"x_caller", b"admin"), (b"X.Caller", b"admin"),
        (b"x_tenant", b"evil"), (b"x-nothing", b"something"), (b"x-caller-2", b"kept"), (b"accept", b"*/*"),
    ]  # fmt: skip
    found = stage(Listed("corporate", alice), forward=FORWARD, owned=OWNED)
    for _ in range(2):
        outcome, x = admit(found, [(b"authorization", b"Bearer x"), *spoofed])
        assert outcome is None
        assert x.headers == [
            (b"authorization", b"Bearer x"), (b"x-caller-2", b"kept"), (b"accept", b"*/*"),
            (b"x-caller", b"alice"), (b"x-tenant", b"acme"), (b"x-roles", b"a,b%2Cc"), (b"x-level", b"3"),
            (b"x-name", b"%C3%89lise%0D%0Ax-admin: 1"),
        ]  # fmt: skip
    outcome, x = admit(stage(Listed("corporate", alice), optional=True, forward=FORWARD, owned=OWNED), spoofed)
    assert x.headers == [(b"x-caller-2", b"kept"), (b"accept", b"*/*")]


def test_names_that_differ_in_their_spaces_only_stay_different() -> None:
    """A service that reads fields must not take one caller for another: spaces at the ends of a field are lost."""
    told = {}
    for name in ("alice", " alice", "alice ", " ", "  ", "al ice"):
        _, x = admit(
            stage(Listed("corporate", Caller(name, "corporate", {"tenant": name})), forward=FORWARD, owned=OWNED), SENT
        )
        told[name] = [value for field, value in x.headers if field in (b"x-caller", b"x-tenant")]
    assert told["alice"] == [b"alice"] * 2
    assert told[" alice"] == [b"%20alice"] * 2
    assert told["al ice"] == [b"al ice"] * 2
    assert len({value for values in told.values() for value in values}) == len(told)


def test_characters_that_no_text_has_stay_different() -> None:
    _, x = admit(
        stage(Listed("corporate", Caller("a", "corporate", {"tenant": "\ud800?"})), forward=FORWARD, owned=OWNED), SENT
    )
    assert (b"x-tenant", b"%ED%A0%80?") in x.headers


def test_fields_that_an_external_server_has_sent_go_on_for_its_callers_only() -> None:
    server = Listed("session", Caller("dave", "session", {"x-user": "dave", "x-more": "no"}), field=b"cookie")
    server.answered = (b"x-user",)  # type: ignore[attr-defined]
    tokens = Listed("corporate", Caller("alice", "corporate", {"x-user": "root"}))
    found = stage(tokens, server, owned=frozenset((b"x-user",)))
    _, x = admit(found, {"cookie": "c", "X-User": "admin"})
    assert x.headers == [(b"cookie", b"c"), (b"x-user", b"dave")]
    _, x = admit(found, {**BEARER, "x-user": "admin"})
    assert x.headers == [(b"authorization", b"Bearer x")]


def test_trailers_cannot_claim_a_caller_either() -> None:
    found = stage(Listed("corporate", alice), forward=FORWARD, owned=OWNED)
    early, late = Body(), Body()
    early.finish([(b"x_caller", b"admin"), (b"x-sum", b"1")])
    for body in (early, late):
        outcome, _ = admit(found, BEARER, stream=body)
        assert outcome is None
    late.finish([(b"X-Caller", b"admin"), (b"x-sum", b"1")])
    assert early.trailers == late.trailers == [(b"x-sum", b"1")]


def test_credentials_go_on_unless_they_are_dropped() -> None:
    headers = {**BEARER, "x-api-key": "k", "Authorization_": "twin"}
    two = (Listed("corporate", alice), Listed("partners", None, b"ApiKey", b"x-api-key"))
    _, x = admit(stage(*two), headers)
    assert x.header(b"authorization") == b"Bearer x"
    _, x = admit(stage(*two, forward={"credentials": "drop"}), headers)
    assert [name for name, _ in x.headers] == [b"authorization_"]


def test_a_route_without_authentication_drops_claims_about_callers() -> None:
    found = BY_NAME["authenticate"].load().claim_filter(frozenset((b"x-caller",)))
    x = exchange(headers=[(b"x_caller", b"admin"), (b"accept", b"*/*")])
    assert found.admit(x) is None
    assert x.headers == [(b"accept", b"*/*")]


def test_criticality_follows_the_caller_and_a_request_can_only_lower_it() -> None:
    found = stage(Listed("corporate", alice), by_caller={"alice": "default"})
    assert admit(found, BEARER)[1].criticality == DEFAULT
    assert admit(found, BEARER, stated_criticality=SHEDDABLE, criticality=SHEDDABLE)[1].criticality == SHEDDABLE
    found = stage(Listed("corporate", alice), by_caller={"alice": "sheddable"})
    assert admit(found, BEARER)[1].criticality == SHEDDABLE
    assert admit(stage(Listed("corporate", alice), by_caller={"bob": "sheddable"}), BEARER)[1].criticality == DEFAULT


@virtual
async def test_identities_that_take_time_are_asked_in_turn() -> None:
    env = virtual_env()

    def later(verdict: Any) -> Any:
        async def wait() -> Any:
            await env.sleep(1.0)
            return verdict

        return lambda: Wait(wait())

    service = ScriptedService(200)
    for verdicts, status in (
        ([later(Rejection("wrong")), later(alice())], 200),
        ([later(Rejection("wrong")), alice], 200),
        ([later(None), Rejection("wrong"), later(Rejection("wrong too"))], 401),
        ([later(Unavailable("away")), later(Rejection("wrong"))], 503),
    ):
        found = stage(*(Listed(f"i{n}", each) for n, each in enumerate(verdicts)), env=env)
        outcome = await Pipeline([found], service)(exchange(headers=BEARER))
        assert outcome.status == status
    assert service.calls == 2


@virtual
async def test_no_request_waits_for_a_verdict_beyond_its_deadline() -> None:
    env = virtual_env()
    ended = []

    async def wait(seconds: float) -> Caller:
        await env.sleep(seconds)
        ended.append(env.now())
        return alice()

    async def fail() -> Caller:
        await env.sleep(1.0)
        raise RuntimeError("a bug")

    hung = Listed("hung", lambda: Wait(wait(5.0)))
    service, began = ScriptedService(200), env.now()
    x = exchange(headers=BEARER, deadline=began + 2.0)
    outcome = await Pipeline([stage(hung, env=env)], service)(x)
    assert (outcome.status, outcome.reason, env.now() - began) == (503, "unverifiable", 2.0)
    assert outcome.cause == "hung has not told by the deadline of the request"
    assert (service.calls, ended) == (0, [])
    await env.sleep(4.0)
    assert ended == [began + 5.0], "the verdict may be cached, for the next request"
    known = stage(hung, Listed("other", alice), env=env)
    x = exchange(headers=BEARER, deadline=env.now() + 2.0)
    assert (await Pipeline([known], service)(x)).status == 200, "another one knows the caller"
    task = asyncio.ensure_future(Pipeline([stage(hung, env=env)], service)(exchange(headers=BEARER, deadline=1e9)))
    await settle()
    task.cancel()
    failing = Listed("failing", lambda: Wait(fail()))
    x = exchange(headers=BEARER, deadline=env.now() + 0.5)
    assert (await Pipeline([stage(failing, env=env)], service)(x)).status == 503
    await env.sleep(9.0)
    assert str(env.emitted("bug")[0]["error"]) == "a bug"
    assert len(ended) == 2, "without a client nobody waits, except for the one of the request before"
    crowded = stage(hung, env=env)
    for late, ends in ((MOST_LATE - 1, 3), (MOST_LATE, 3)):
        crowded._late = late
        x = exchange(headers=BEARER, deadline=env.now() + 2.0)
        assert (await Pipeline([crowded], service)(x)).status == 503
        await env.sleep(4.0)
        assert (len(ended), crowded._late) == (ends, late)


def test_a_realm_is_quoted_safely() -> None:
    kind = BY_NAME["authenticate"]
    from dataclasses import replace

    ctx = replace(context(resources={("identity", "corporate"): Listed("corporate", alice)}), service='a"b\\c\r\né')
    found = kind.build(kind.spec.model_validate({"any_of": ["corporate"]}), ctx)
    assert challenges(admit(found)[0]) == [b'Bearer realm="abc"']


@pytest.mark.parametrize(
    "block",
    [
        {"any_of": []},
        {"any_of": ["corporate"], "forward": {"caller": "x-request-id"}},
        {"any_of": ["corporate"], "forward": {"caller": "X_Forwarded_For"}},
        {"any_of": ["corporate"], "forward": {"caller": "x caller"}},
        {"any_of": ["corporate"], "forward": {"caller": "x-caller", "claims": {"tenant": "X_Caller"}}},
        {"any_of": ["corporate"], "forward": {"credentials": "maybe"}},
    ],
)
def test_impossible_blocks_are_refused(block: Any) -> None:
    with pytest.raises(ValueError, match=r"any_of|forward"):
        BY_NAME["authenticate"].spec.model_validate(block)


def test_fields_with_credentials_are_never_indexed() -> None:
    try:
        stage(Listed("partners", None, field=b"x-partner-key"))
        assert b"x-partner-key" in UNINDEXED
    finally:
        UNINDEXED.discard(b"x-partner-key")
