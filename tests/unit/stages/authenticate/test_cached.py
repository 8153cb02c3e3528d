"""Requests with a token that is cached as accepted: equal to those whose token is verified, in every respect."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.exchange import SHEDDABLE, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Wait
from sidecar.identity.key_source import KeySet
from sidecar.stages import BY_NAME
from tests.support.clock import FakeEnv, make_env
from tests.support.issuer import jwk, key, sign
from tests.support.service import context, exchange
from tests.unit.identity.test_jwt import identity
from tests.unit.stages.authenticate.test_stage import Listed

TOKEN = sign(key())
FORWARD = {"caller": "x-caller", "claims": {"tenant": "x-tenant"}}


def stage(*identities: Any, env: FakeEnv | None = None, **forward: Any) -> Any:
    found: dict[tuple[str, str], Any] = {("identity", each.name): each for each in identities}
    found["caller_fields", "order"] = frozenset({b"x-caller", b"x-tenant"})
    found["criticality", "order"] = {"alice": "sheddable"}
    kind = BY_NAME["authenticate"]
    names = [each.name for each in identities]
    spec = kind.spec.model_validate({"any_of": names, "forward": {**FORWARD, **forward}})
    return kind.build(spec, context(env, resources=found))


def send(built: Any, lines: bytes) -> tuple[Outcome | None, Exchange]:
    x = exchange()
    x.lines = lines
    outcome = built.admit(x)
    assert not isinstance(outcome, Wait)
    return outcome, x


def lines(*more: bytes, value: bytes = b"Bearer " + TOKEN, name: bytes = b"Authorization") -> bytes:
    return b"".join(b"%b\r\n" % each for each in (b"Host: orders", b"%b: %b" % (name, value), *more))


@pytest.mark.parametrize("credentials", ["pass", "drop"])
@pytest.mark.parametrize(
    "more",
    [
        (),
        (b"Accept: */*",),
        (b"X-Caller: root",),
        (b"x_caller: root", b"X-TENANT: evil"),
        (b"X-Forwarded-Authorization: Bearer x",),
        (b"Referer: http://x/authorization",),
    ],
)
def test_what_goes_on_is_the_same_for_a_cached_token(more: tuple[bytes, ...], credentials: str) -> None:
    first = send(stage(identity(jwk(key())), credentials=credentials), lines(*more))[1]
    built = stage(identity(jwk(key())), credentials=credentials)
    for _ in range(6):
        outcome, x = send(built, lines(*more))
        assert outcome is None
        assert sorted(x.headers) == sorted(first.headers)
        assert x.caller is not None
        assert (x.caller.id, x.criticality) == ("alice", SHEDDABLE)


def test_cached_tokens_need_no_verification_and_are_counted() -> None:
    found = identity(jwk(key()))
    built = stage(found)
    send(built, lines())
    found.source.keys = KeySet()  # no token can be verified any more
    for number in range(10):  # more changes of the other fields than are kept
        assert send(built, lines(b"X-Request-Id: %d" % number))[0] is None
        assert send(built, lines())[0] is None
    assert found.tokens.hits.value == 20


def test_lines_are_kept_but_for_the_request_id() -> None:
    built = stage(identity(jwk(key())))
    for _ in range(2):
        send(built, lines())
    seen = []
    for number in (b"1", b"23", b"abc"):
        x = exchange()
        x.lines, x.request_id = lines(b"Accept: */*", b"x-request-id: " + number), number
        built._found[0] = None
        assert built.admit(x) is None
        assert (built._found[0] is not None) is (number != b"1"), "from the second on, nothing is made anew"
        seen.append(x.lines)
        assert dict(x.headers)[b"x-request-id"] == number
        assert dict(x.headers)[b"x-caller"] == b"alice"
    assert len({text.partition(b"x-request-id")[0] for text in seen}) == 1


def test_a_client_cannot_pass_a_field_off_as_the_request_id() -> None:
    built = stage(identity(jwk(key())))
    for _ in range(3):
        x = exchange()
        x.lines, x.request_id = lines(b"x-request-id: 1"), b"1"
        assert built.admit(x) is None
        x = exchange()
        x.lines, x.request_id = lines(b"x-caller: root55"), b"1"
        built.admit(x)
        assert [value for name, value in x.headers if name == b"x-caller"] == [b"alice"]


def test_a_second_credential_is_ambiguous_beside_a_cached_token_too() -> None:
    built = stage(identity(jwk(key())))
    send(built, lines())
    for more in (b"Authorization: Basic x", b"AUTHORIZATION: Bearer " + TOKEN, b"authorization:"):
        outcome, x = send(built, lines(more))
        assert outcome is not None
        assert (outcome.status, x.caller) == (400, None)


def test_the_verdict_on_a_cached_token_ends_with_its_time_and_with_its_key() -> None:
    env = make_env()
    found = identity(jwk(key()), env=env)
    built = stage(found, env=env)
    for _ in range(2):
        assert send(built, lines())[0] is None
    for each in found.source.keys.keys:
        each.is_current = False
    found.source.keys = KeySet()
    outcome, x = send(built, lines())
    assert outcome is not None
    assert (outcome.status, x.caller) == (401, None)


def test_only_the_whole_token_is_known_and_not_its_end() -> None:
    built = stage(identity(jwk(key())))
    for _ in range(2):
        send(built, lines())
    for forged in (b"x" + TOKEN, TOKEN[1:], TOKEN[-60:], b"A" + TOKEN[1:], TOKEN[:-1]):
        outcome, x = send(built, lines(value=b"Bearer " + forged))
        assert outcome is not None
        assert x.caller is None
    outcome, x = send(built, lines(name=b"X-Authorization"))
    assert outcome is not None
    assert x.caller is None


def test_an_earlier_identity_without_a_cache_is_asked_first() -> None:
    tokens = identity(jwk(key()))
    built = stage(Listed("partners", None, b"ApiKey", b"x-api-key"), tokens)
    for _ in range(3):
        assert send(built, lines())[0] is None
    assert tokens.tokens.hits.value == 2


def test_long_lines_are_not_kept() -> None:
    built = stage(identity(jwk(key())))
    for text, is_kept in ((lines(b"X-Long: " + b"a" * 5000), False), (lines(), True)):
        for _ in range(3):
            built._found[0] = None
            x = exchange()
            x.lines, x.request_id = text + b"x-request-id: 7\r\n", b"7"
            assert built.admit(x) is None
        assert (built._found[0] is not None) is is_kept
