"""Secrets are compared in constant time, and one key or name never vouches for the callers of another identity."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.exchange import Caller
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Wait
from sidecar.file_watch import FileWatch
from sidecar.identity import api_keys, keys
from sidecar.identity.verdict import Rejection
from sidecar.stages import BY_NAME
from tests.support.clock import make_env
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.service import context, exchange
from tests.unit.identity.test_jwt import ask, identity
from tests.unit.identity.test_others import ask as ask_other
from tests.unit.identity.test_others import digest, key_file, make


def spy(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[tuple[Any, Any]]:
    """Return the list of pairs that a module compares in constant time from now on."""
    seen: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest

    class Spy:
        digest = staticmethod(hmac.digest)

        @staticmethod
        def compare_digest(one: Any, other: Any) -> bool:
            seen.append((one, other))
            return compare(one, other)

    monkeypatch.setattr(module, "hmac", Spy)
    return seen


@pytest.mark.parametrize("is_right", [True, False])
def test_an_hmac_is_compared_in_constant_time(is_right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, keys)
    secret = key("oct", "hs")
    found = identity(jwk(secret), algorithms=["HS256"])
    token = sign(secret if is_right else key("oct", "other"), alg="HS256", kid="hs")
    assert isinstance(ask(found, token), Caller) is is_right
    assert len(seen) == 1
    assert [len(each) for each in seen[0]] == [32, 32]


async def test_an_api_key_is_found_by_its_digest_and_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch, api_keys)
    env = make_env()
    found = make("api_key", env, file=str(key_file(tmp_path, {"name": "k", "digest": digest("right")})))
    assert isinstance(await ask_other(found, env, headers={"x-api-key": "right"}), Caller)
    assert seen == [(digest("right").removeprefix("sha256:"),) * 2]


async def test_a_key_is_rotated_without_a_refused_request(tmp_path: Path) -> None:
    env = make_env()
    old, new = ({"name": name, "owner": "batch", "digest": digest(name)} for name in ("old", "new"))
    path = key_file(tmp_path, old)
    found = make("api_key", env, file=str(path))
    for listed, valid in (([old], {"old"}), ([old, new], {"old", "new"}), ([new], {"new"})):
        key_file(tmp_path, *listed)
        found._watched = FileWatch(None)  # the change may fall within the resolution of the file's times
        await found.poll()
        await found.poll()
        for name in ("old", "new"):
            verdict = await ask_other(found, env, headers={"x-api-key": name})
            if name in valid:
                assert isinstance(verdict, Caller)
                assert verdict.id == "batch"
            else:
                assert isinstance(verdict, Rejection)


def test_an_issuer_that_has_the_key_of_another_names_only_its_own_callers() -> None:
    shared = jwk(key())
    corporate, jobs = identity(shared), identity(shared, issuer="https://jobs.example")
    token = sign(key(), {"iss": ISSUER, "sub": "alice"})
    assert isinstance(ask(corporate, token), Caller)
    for _ in range(2):  # the second time with a cache
        found = ask(jobs, token)
        assert isinstance(found, Rejection)
        assert found.is_foreign
    assert isinstance(ask(identity(shared, audiences=["payments"]), token), Rejection)


def test_a_token_that_one_route_knows_is_unknown_to_a_route_for_other_identities() -> None:
    env, kind = make_env(), BY_NAME["authenticate"]
    known = {"corporate": identity(jwk(key())), "jobs": identity(jwk(key("EC", "two")), issuer="https://jobs.example")}
    stages = {}
    for name, found in known.items():
        resources = {
            ("identity", name): found,
            ("caller_fields", "order"): frozenset({b"x-caller"}),
            ("criticality", "order"): {},
        }
        spec = kind.spec.model_validate({"any_of": [name], "forward": {"caller": "x-caller"}})
        stages[name] = kind.build(spec, context(env, resources=resources))
    token = sign(key()).decode()
    for _ in range(3):
        for name, is_accepted in (("corporate", True), ("jobs", False)):
            x = exchange(headers={"authorization": f"Bearer {token}"})
            outcome = stages[name].admit(x)
            assert not isinstance(outcome, Wait)
            assert (x.caller is not None) is is_accepted
            assert isinstance(outcome, Outcome) is not is_accepted
