"""Tokens that were not seen before take turns on the event loop, and slow keys verify in worker threads."""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from itertools import count, pairwise
from math import gcd
from typing import Any

import pytest

from sidecar.core.exchange import Caller
from sidecar.core.stage import Wait
from sidecar.identity import verification
from sidecar.identity.jwt import JwtIdentity
from sidecar.identity.keys import SMALL_PRIMES, encode, read_key
from sidecar.identity.verdict import Rejection, Unavailable
from sidecar.identity.verification import AT_ONCE, IN_THREAD, WARY_FOR, VerificationSpec
from tests.support.clock import WALL, FakeEnv, make_env
from tests.support.issuer import KeyServer, jwk, key, sign
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import exchange
from tests.unit.identity.test_jwt import identity
from tests.unit.identity.test_key_source import Rig

ROOM = 20
"""Places in the queue, in place of `MOST_WAITING`."""
CAUSE = "too many tokens wait for their verification"


def begin(found: JwtIdentity, token: bytes, address: str = "10.0.0.1") -> Any:
    """Return the verdict on a token, or the task that waits for it."""
    x = exchange(headers={"authorization": f"Bearer {token.decode()}"}, client_address=address)
    verdict = found.authenticate(x, x.lines, b"\n" + x.lines.lower(), found._now())
    return asyncio.ensure_future(verdict.awaited) if isinstance(verdict, Wait) else verdict


def rig(kind: str = "EC", **settings: Any) -> tuple[JwtIdentity, FakeEnv]:
    env = virtual_env()
    limits = VerificationSpec.built_in(share=1.0, failures=1e6)
    return identity(jwk(key(kind)), env=env, limits=limits, at_once=AT_ONCE, **settings), env


@cache
def fresh(number: int) -> bytes:
    return sign(key("EC"), {"jti": str(number)})


@virtual
async def test_of_many_new_tokens_a_few_are_verified_in_each_turn_of_the_loop() -> None:
    found, env = rig()
    begun = [begin(found, fresh(number)) for number in range(3 * AT_ONCE)]
    assert [isinstance(each, Caller) for each in begun] == [True] * AT_ONCE + [False] * 2 * AT_ONCE
    assert isinstance(begin(found, fresh(0)), Caller), "a token that was verified before waits for nobody"
    accepted = []
    for _ in range(12):
        await asyncio.sleep(0)  # others' events
        accepted.append(env.meter.value("sidecar.authentications", result="accepted"))
    steps = {after - before for before, after in pairwise(accepted)}
    assert max(steps) <= AT_ONCE
    assert accepted[-1] == 3 * AT_ONCE
    assert all([isinstance(await each, Caller) for each in begun[AT_ONCE:]])
    assert isinstance(begin(found, fresh(99)), Caller), "the queue is empty again"


@virtual
async def test_while_signatures_are_wrong_head_signature_and_answer_have_turns_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, _ = rig(wary_for=WARY_FOR)
    (known,) = found.source.keys.keys
    verified = []
    verify = known._verifiers["ES256"]

    def spy(signature: bytes, signed: bytes) -> bool:
        verified.append(signature)
        return verify(signature, signed)

    monkeypatch.setitem(known._verifiers, "ES256", spy)
    forged = [sign(key("EC", "forged"), {"jti": str(number)}, kid="one") for number in range(2)]
    assert isinstance(begin(found, forged[0]), Rejection)
    verified.clear()
    task = begin(found, forged[1])
    assert not verified
    turns = 0
    while not task.done():
        counted = len(verified)
        await asyncio.sleep(0)
        turns += 1
        assert not (len(verified) > counted and task.done()), "verified and answered in one turn"
    assert turns > 2
    assert isinstance(task.result(), Rejection)
    assert isinstance(await begin(found, fresh(1)), Caller), "one that is right waits too"
    await asyncio.sleep(WARY_FOR)
    assert isinstance(begin(found, fresh(2)), Caller)


@virtual
async def test_a_token_that_waits_twice_is_verified_once() -> None:
    found, env = rig()
    for number in range(AT_ONCE):
        begin(found, fresh(number))
    twice = [begin(found, fresh(99)) for _ in range(2)]
    assert [(await each).id for each in twice] == ["alice", "alice"]
    assert env.meter.value("sidecar.authentications", result="accepted") == AT_ONCE + 1
    assert env.meter.value("sidecar.authentications", result="cached") == 1


@virtual
async def test_the_queue_is_bounded_and_clients_that_leave_give_their_place_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "MOST_WAITING", ROOM)
    found, env = rig()
    forged = [sign(key("EC", "forged"), {"jti": str(number)}, kid="one") for number in range(AT_ONCE + ROOM)]
    begun = [begin(found, token) for token in forged]
    refused = begin(found, fresh(1))
    assert isinstance(refused, Unavailable)
    assert (refused.cause, refused.retry_after) == (CAUSE, 1.0)
    assert env.meter.value("sidecar.authentications", result="unavailable") == 1
    await asyncio.sleep(0)  # the engine begins to wait at once, a task in the next turn
    for task in begun[AT_ONCE + 1 :]:
        task.cancel()
    assert isinstance(await begun[AT_ONCE], Rejection)
    await asyncio.gather(*begun[AT_ONCE + 1 :], return_exceptions=True)
    await settle()  # far fewer turns than clients have left
    assert isinstance(begin(found, fresh(1)), Caller)
    assert env.meter.value("sidecar.authentications", result="rejected") == AT_ONCE + 1


@pytest.mark.parametrize(
    ("kind", "alg", "is_slow"),
    [("EC", "ES256", False), ("P-384", "ES384", True), ("P-521", "ES512", True), ("RSA", "PS512", False),
     ("OKP", "EdDSA", False), ("oct", "HS256", False)],
)  # fmt: skip
async def test_slow_keys_verify_in_a_worker_thread(
    kind: str, alg: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = virtual_env()
    found = identity(jwk(key(kind)), env=env, algorithms=[alg])
    (known,) = found.source.keys.keys
    assert known.is_slow is is_slow
    threads = []
    verify = known._verifiers[alg]

    def spy(signature: bytes, signed: bytes) -> bool:
        threads.append(threading.get_ident())
        return verify(signature, signed)

    monkeypatch.setitem(known._verifiers, alg, spy)
    begun = begin(found, sign(key(kind), alg=alg))
    assert isinstance(begun, asyncio.Task) is is_slow
    verdict = await begun if is_slow else begun
    assert isinstance(verdict, Caller)
    assert [each == threading.get_ident() for each in threads] == [not is_slow]
    forged = begin(found, sign(key(kind, "forged"), alg=alg, kid="one"))
    assert isinstance(await forged if is_slow else forged, Rejection)
    assert env.meter.value("sidecar.authentications", result="accepted") == 1
    assert env.meter.value("sidecar.authentications", result="rejected") == 1


@pytest.mark.parametrize(
    ("bits", "exponent", "is_slow"), [(2048, 65537, False), (8192, 65537, True), (2048, 65539, True)]
)
def test_large_keys_are_slow(bits: int, exponent: int, is_slow: bool) -> None:
    modulus = next(n for n in count((1 << (bits - 1)) + 15, 2) if gcd(n, SMALL_PRIMES) == 1)  # none has to sign here
    members = {name: n.to_bytes((n.bit_length() + 7) // 8, "big") for name, n in {"n": modulus, "e": exponent}.items()}
    assert (
        read_key({"kty": "RSA", **{n: encode(v).decode() for n, v in members.items()}}, has_secrets=False).is_slow
        is is_slow
    )


async def test_a_verification_in_a_thread_is_paid_although_its_client_has_left() -> None:
    found, _ = rig("P-384", algorithms=["ES384"])
    budget = found._budget
    left = budget.describe()["left"]
    task = begin(found, sign(key("P-384"), alg="ES384"))
    await asyncio.sleep(0)
    task.cancel()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    while budget.describe()["left"] >= left:  # ends with the thread
        await asyncio.sleep(0)


async def test_a_client_that_floods_a_slow_key_is_refused_before_all_its_tokens_are_verified() -> None:
    limits = VerificationSpec.built_in(share=1.0, failures=5.0)  # a second, and the clock stands still
    found = identity(jwk(key("P-384")), env=make_env(), limits=limits, at_once=AT_ONCE, algorithms=["ES384"])
    forged = [sign(key("P-384", "forged"), {"jti": str(n)}, "ES384", kid="one") for n in range(20)]
    verdicts = await asyncio.gather(*[begin(found, token, "10.9.9.9") for token in forged])
    rejected = sum(isinstance(each, Rejection) for each in verdicts)
    assert 5 <= rejected <= 5 + 2 * IN_THREAD
    assert sum(isinstance(each, Unavailable) for each in verdicts) == len(forged) - rejected
    good = sign(key("P-384"), alg="ES384")
    assert isinstance(await begin(found, good, "10.0.0.2"), Caller), "no place is lost"


@virtual
async def test_in_virtual_time_a_slow_key_takes_no_thread() -> None:
    found, _ = rig("P-521", algorithms=["ES512"])
    assert isinstance(await begin(found, sign(key("P-521"), alg="ES512")), Caller)


@virtual
async def test_tokens_that_have_waited_are_verified_although_the_queue_is_full_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "MOST_WAITING", ROOM)
    found, env = rig()
    tasks = [begin(found, fresh(number)) for number in range(AT_ONCE + ROOM)][AT_ONCE:]
    for number in range(1000, 1000 + 5 * AT_ONCE):  # as many come as have had their turn
        await asyncio.sleep(0)
        begin(found, fresh(number))
    assert all([isinstance(await each, Caller) for each in tasks])
    assert env.meter.value("sidecar.authentications", result="accepted") >= AT_ONCE + ROOM


@virtual
async def test_tokens_that_have_waited_for_keys_take_turns_too() -> None:
    server = KeyServer(jwk(key("EC")))
    found = Rig(server).identity
    tasks = [begin(found, fresh(number)) for number in range(3 * AT_ONCE)]
    assert all(isinstance(each, asyncio.Task) for each in tasks)
    accepted = []
    while not all(each.done() for each in tasks):
        accepted.append(sum(each.done() for each in tasks))
        await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise([*accepted, len(tasks)])) <= AT_ONCE
    assert all(isinstance(each.result(), Caller) for each in tasks)


async def told(task: Any, env: FakeEnv) -> Any:
    """Return the verdict that a task waits for, on a clock that stands still."""
    while not task.done():
        env.advance(0.0)
        await asyncio.sleep(0)
    return task.result()


async def test_a_token_that_ends_while_it_waits_or_whose_key_leaves_is_judged_anew() -> None:
    env = make_env()
    found = identity(jwk(key("EC")), env=env, at_once=AT_ONCE)
    for number in range(AT_ONCE):
        assert isinstance(begin(found, fresh(number)), Caller)
    short, long = sign(key("EC"), {"exp": WALL + 10}), sign(key("EC"), {"exp": WALL + 1000})
    waiting = [begin(found, each) for each in (short, long)]
    await settle()
    env.advance(100.0)  # the turn comes at once, and its token takes it late
    ended = await told(waiting[0], env)
    assert isinstance(ended, Rejection)
    assert "expired" in ended.cause
    assert isinstance(await told(waiting[1], env), Caller)
    for number in range(100, 100 + AT_ONCE + 1):
        last = begin(found, fresh(number))
    await settle()
    found.source.keys = found.source.keys.replaced_by(())
    refused = await told(last, env)
    assert isinstance(refused, Rejection)
    assert "no key" in refused.cause
