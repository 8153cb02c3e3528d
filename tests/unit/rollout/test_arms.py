"""Tests of the arms of a route: shares, ramps, keys, evidence, and the return."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64encode
from collections import Counter
from itertools import combinations
from typing import Any, cast

import pytest
from pydantic import ValidationError

from sidecar.core import events
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, BREAKER_OPEN, CLIENT_CLOSED, RATE_LIMITED, TIMEOUT, Outcome, failed
from sidecar.core.stage import OutcomeCounter
from sidecar.rollout.arms import STABLE, Arms, Settings
from sidecar.rollout.spec import RampSpec, ReturnSpec, SplitSpec, StickySpec
from sidecar.rollout.stage import ArmStage, TimedArmStage
from tests.support.clock import FakeEnv, make_env
from tests.support.service import exchange

RULE = {"errors": {"worse_by_points": 1}, "p99": {"worse_by": "30%"}}


def settings(
    *shares: float, sticky: Any = None, when: str | None = None, ramp: Any = None, return_when: Any = None
) -> Settings:
    return Settings(
        ("stable", *(f"candidate-{number}" for number in range(1, len(shares) + 1))),
        shares,
        None if sticky is None else StickySpec.model_validate(sticky),
        when,
        None if ramp is None else RampSpec.model_validate(ramp),
        None if return_when is None else ReturnSpec.model_validate(return_when),
    )


def of(*shares: float, **more: Any) -> tuple[FakeEnv, Arms]:
    env = make_env(seed=3)
    return env, Arms("checkout", settings(*shares, **more), env)


def chosen(arms: Arms, number: int = 4000, **facts: Any) -> Counter[int]:
    return Counter(arms.choose(exchange(**facts)) for _ in range(number))


def user(number: int, field: str = "x-user") -> Exchange:
    return exchange(headers=[(field.encode(), f"user-{number}".encode())])


# ----- shares


def test_each_arm_gets_its_share() -> None:
    _, arms = of(0.05, 0.2)
    found = chosen(arms)
    assert 150 < found[1] < 250
    assert 700 < found[2] < 900
    assert found[STABLE] == 4000 - found[1] - found[2]


def test_a_key_always_meets_the_same_arm_and_keys_are_spread_evenly() -> None:
    _, arms = of(0.05, sticky={"header": "X-User"})
    first = [arms.choose(user(number)) for number in range(10_000)]
    assert first == [arms.choose(user(number)) for number in range(10_000)]
    assert 400 < sum(first) < 600


def test_not_the_same_keys_meet_the_candidate_of_every_route() -> None:
    """Two routes with shares of 10 % have 40 of 4000 keys in common by chance; the bounds are four deviations."""
    env, users = make_env(), [user(number) for number in range(4000)]
    met = []
    for route in ("checkout", "orders", "a", "b", "cart", "card", "route1", "route2"):
        arms = Arms(route, settings(0.1, sticky={"header": "x-user"}), env)
        met.append({number for number, each in enumerate(users) if arms.choose(each)})
    common = [len(one & other) for one, other in combinations(met, 2)]
    assert all(15 <= number <= 65 for number in common), common


def test_a_share_that_grows_keeps_its_keys() -> None:
    env, arms = of(0.05, sticky={"header": "x-user"}, ramp={"to": "100%", "over": "10m"})
    met: set[int] = set()
    for minute in range(11):
        now_met = {number for number in range(500) if arms.choose(user(number))}
        assert met <= now_met
        met = now_met
        assert arms.share(1) == pytest.approx(0.05 + 0.095 * minute)
        env.advance(60)
    assert len(met) == 500
    assert arms.share(STABLE) == 0
    assert not arms.is_ramping


def test_without_its_key_a_request_meets_an_arm_at_random() -> None:
    _, arms = of(0.5, sticky={"header": "x-user"})
    assert set(chosen(arms, 100)) == {0, 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [("cookie", b"a=1; session=s7; b=2"), ("cookie", b"session=s7"), ("cookie", b"b=2 ;session=s7 ")],
)
def test_cookies_as_keys(field: str, value: bytes) -> None:
    _, arms = of(0.5, sticky={"cookie": "session"})
    other = exchange(headers=[(b"cookie", b"session=s7")])
    assert arms.choose(exchange(headers=[(field.encode(), value)])) == arms.choose(other)


@pytest.mark.parametrize("value", [b"", b"session=", b"xsession=s7", b"session"])
def test_cookies_without_the_key(value: bytes) -> None:
    _, arms = of(0.5, sticky={"cookie": "session"})
    assert len(chosen(arms, 60, headers=[(b"cookie", value)])) == 2


def token(**claims: Any) -> bytes:
    middle = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"Bearer e30." + middle + b".c2ln"


def test_a_caller_keeps_its_arm_with_a_new_token() -> None:
    _, arms = of(0.5, sticky={"caller": True})
    met = [
        {arms.choose(exchange(headers=[(b"authorization", token(sub=f"u{n}", exp=turn))])) for turn in range(5)}
        for n in range(50)
    ]
    assert all(len(each) == 1 for each in met)
    assert len({next(iter(each)) for each in met}) == 2


@pytest.mark.parametrize(
    "value", [b"Basic YTpi", b"Bearer a.b.c", b"Bearer W10.W10.x", token(sub=7), b"Bearer " + b"a" * 9999]
)
def test_other_credentials_are_keys_as_they_are(value: bytes) -> None:
    _, arms = of(0.5, sticky={"caller": True})
    assert len(chosen(arms, 50, headers=[(b"authorization", value)])) == 1


def test_only_requests_that_meet_the_condition_meet_a_candidate() -> None:
    _, arms = of(0.9, when="request.headers['x-beta'] == 'on'")
    assert chosen(arms, 50) == {STABLE: 50}
    assert chosen(arms, 50, headers=[(b"x-beta", b"on")])[1] > 30


# ----- the return


def drive(
    env: FakeEnv, arms: Arms, rates: tuple[float, float], seconds: float, rng: random.Random, slower: float = 1.0
) -> float:
    """Send 50 requests a second to each arm, with error rates; return the seconds until the candidate has no share."""
    began = env.now()
    while env.now() - began < seconds:
        env.advance(0.02)
        for arm, rate in enumerate(rates):
            taken = rng.lognormvariate(-4, 0.5) * (slower if arm else 1.0)
            arms.note(arm, rng.random() < rate, taken, False)
        if not arms.share(1):
            return env.now() - began
    return seconds


def test_a_candidate_with_five_percent_of_errors_is_taken_back_within_a_minute() -> None:
    soon = 0
    for seed in range(100):
        env, arms = of(0.05, return_when=RULE)
        soon += drive(env, arms, (0.0, 0.05), 60, random.Random(seed)) < 60
    assert soon >= 95


def test_equal_arms_keep_their_shares() -> None:
    kept = 0
    for seed in range(30):
        env, arms = of(0.05, return_when=RULE)
        kept += drive(env, arms, (0.01, 0.01), 60, random.Random(seed)) == 60
    assert kept == 30


def test_a_candidate_that_takes_twice_as_long_is_taken_back() -> None:
    for seed in range(10):
        env, arms = of(0.05, return_when=RULE)
        assert drive(env, arms, (0.0, 0.0), 120, random.Random(seed), slower=2.0) < 120


def test_a_candidate_that_takes_a_little_longer_stays() -> None:
    for seed in range(10):
        env, arms = of(0.05, return_when=RULE)
        assert drive(env, arms, (0.0, 0.0), 60, random.Random(seed), slower=1.2) == 60


def test_the_return_is_logged_counted_and_shown_and_lasts() -> None:
    env, arms = of(0.3, ramp={"to": "100%", "over": "1m"}, return_when=RULE)
    drive(env, arms, (0.0, 0.5), 60, random.Random(1))
    (event,) = env.emitted(events.ROLLOUT_RETURNED)
    assert event["candidate"] == "candidate-1"
    assert "failed only at the candidate" in event["reason"]
    assert event["candidate_errors"] > event["stable_errors"] == 0
    env.advance(600)
    assert set(chosen(arms, 50)) == {STABLE}
    shown = arms.describe()["candidates"][0]
    assert shown["share"] == 0
    assert shown["returned"]["reason"] == event["reason"]
    assert shown["errors"]["evidence"] > shown["errors"]["threshold"]
    drive(env, arms, (0.0, 0.5), 10, random.Random(1))
    assert len(env.emitted(events.ROLLOUT_RETURNED)) == 1


def test_new_settings_begin_anew() -> None:
    env, arms = of(0.3, return_when=RULE)
    drive(env, arms, (0.0, 0.5), 60, random.Random(1))
    assert arms.share(1) == 0
    arms.retune(settings(0.1, return_when=RULE))
    assert arms.share(1) == 0.1
    assert arms.describe()["candidates"][0]["returned"] is None


def test_counts_begin_anew_with_new_settings_and_go_on_from_there() -> None:
    _, arms = of(0.1, 0.1)
    stages = [arms.counter(number) for number in range(3)]
    for changed in (settings(0.1, 0.2), settings(0.3, 0.2)):
        for stage in stages:
            stage.settle(exchange(), None, Outcome(200))
        stages[2].settle(exchange(), None, Outcome(503))
        first, second = arms.describe()["candidates"]
        assert first["stable"] == second["stable"] == first["candidate"] == {"requests": 1, "errors": 0}
        assert second["candidate"] == {"requests": 2, "errors": 1}
        arms.retune(changed)
        assert arms.describe()["candidates"][1]["candidate"] == {"requests": 0, "errors": 0}


def test_without_a_rule_nothing_is_taken_back() -> None:
    env, arms = of(0.3)
    assert drive(env, arms, (0.0, 1.0), 30, random.Random(1)) == 30


def test_one_bad_candidate_of_two() -> None:
    env, arms = of(0.1, 0.1, return_when=RULE)
    for _ in range(2000):
        env.advance(0.02)
        for arm in range(3):
            arms.note(arm, arm == 1, 0.01, False)
    assert arms.share(1) == 0
    assert arms.share(2) == 0.1
    assert arms.share(STABLE) == 0.9


def test_pairs_are_made_beside_each_other() -> None:
    env, arms = of(0.1, return_when=RULE)
    for _ in range(100):
        arms.note(STABLE, False, 0.01, False)
        env.advance(11)
        arms.note(1, True, 0.01, False)
        env.advance(11)
    assert arms.describe()["candidates"][0]["errors"]["pairs"] == 0


def test_a_breaker_that_opens_for_the_candidate_alone() -> None:
    env, arms = of(0.1, return_when=RULE)
    arms.note(STABLE, True, 0.0, True)
    env.advance(1)
    arms.note(1, True, 0.0, True)
    assert arms.share(1) == 0.1, "both are open: the circumstances are to blame"
    env.advance(20)
    arms.note(1, True, 0.0, True)
    assert arms.share(1) == 0
    env, arms = of(0.1, return_when={**RULE, "breaker": False})
    arms.note(1, True, 0.0, True)
    assert arms.share(1) == 0.1


# ----- the stage


@pytest.mark.parametrize("kind", [ArmStage, TimedArmStage, OutcomeCounter])
def test_the_stage_reports_what_is_not_the_client_s_doing(kind: type) -> None:
    env, arms = of(0.5, return_when=None if kind is OutcomeCounter else RULE)

    def stage(number: int) -> Any:
        if kind is OutcomeCounter:
            return arms.counter(number)
        return TimedArmStage(arms, number, env.now) if kind is TimedArmStage else ArmStage(arms, number)

    def admit(stage: Any) -> Any:
        return stage.admit(exchange()) if kind is TimedArmStage else None

    for outcome in (Outcome(200), Outcome(404), Outcome(503), failed(TIMEOUT), failed(BREAKER_OPEN)):
        ticket = admit(stage(1))
        if kind is TimedArmStage:
            stage(1).answer(exchange(), ticket, outcome)
        stage(1).settle(exchange(), ticket, outcome)
    for outcome in (ABANDONED, failed(CLIENT_CLOSED)):
        stage(1).settle(exchange(), admit(stage(1)), outcome)
    found = arms.describe()["candidates"][0]
    assert found["candidate"] == {"requests": 5, "errors": 3}
    assert found["stable"] == {"requests": 0, "errors": 0}
    stage(0).settle(exchange(), admit(stage(0)), Outcome(503))
    assert arms.describe()["candidates"][0]["stable"] == {"requests": 1, "errors": 1}
    assert RATE_LIMITED.origin == "gateway"


# ----- the spec


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"split": {"a": "90%", "b": "20%"}}, "110% together; they must add up to 100%"),
        ({"split": {"a": "100%"}}, "at least 2"),
        ({"split": {"a": "90%", "b": "10%"}, "ramp": {"to": "5%", "over": "1m"}}, "a share only grows"),
        ({"split": {"a": "90%", "b": "5%", "c": "5%"}, "ramp": {"to": "50%", "over": "1m"}}, "one candidate"),
        ({"split": {"a": "90%", "b": "10%"}, "sticky": {}}, "takes one of"),
        ({"split": {"a": "90%", "b": "10%"}, "sticky": {"header": "a", "cookie": "b"}}, "takes one of"),
        ({"split": {"a": "90%", "b": "10%"}, "return_when": {"p99": {"worse_by": "0%"}}}, "more than zero"),
        ({"split": {"a": "90%", "b": "10%"}, "return_when": {"errors": {"worse_by_points": -1}}}, "greater than"),
        ({"split": {"a": "90%", "b": "10%"}, "when": "request.nothing"}, "nothing"),
    ],
)
def test_errors_of_the_spec(spec: Any, says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SplitSpec.model_validate(spec)
    assert says in str(raised.value)


def test_the_first_upstream_of_a_split_is_the_stable_one() -> None:
    spec = SplitSpec.model_validate({"split": {"v1": "95%", "v2": "5%"}, "ramp": {"to": "100%", "over": "30m"}})
    assert spec.stable == "v1"
    assert spec.candidates == (("v2", pytest.approx(0.05)),)


# ----- several workers


class Told:
    """Workers that hear what one of them tells, as JSON."""

    count = 2

    def __init__(self) -> None:
        self.applied: dict[str, list[Any]] = {}
        self.values: dict[str, dict[str, Any]] = {}

    def subscribe(self, topic: str, apply: Any) -> Any:
        for key, value in self.values.get(topic, {}).items():
            apply(key, value)
        self.applied.setdefault(topic, []).append(apply)

        def tell(key: str, value: Any) -> None:
            known = self.values.setdefault(topic, {})[key] = json.loads(json.dumps(value))
            for each in self.applied[topic]:
                if each != apply:
                    each(key, known)

        return tell

    def leave(self, topic: str, apply: Any) -> None:
        self.applied[topic].remove(apply)


def test_a_candidate_that_one_worker_takes_back_is_taken_back_by_all() -> None:
    told = Told()
    env = make_env(seed=3)
    env.workers = cast("Any", told)
    rule = settings(0.3, return_when=RULE)
    first, second, other = Arms("checkout", rule, env), Arms("checkout", rule, env), Arms("home", rule, env)
    drive(env, first, (0.0, 0.5), 60, random.Random(1))
    assert [each.share(1) for each in (first, second, other)] == [0, 0, 0.3]
    assert set(chosen(second, 50)) == {STABLE}
    assert second.describe()["candidates"][0]["returned"] == first.describe()["candidates"][0]["returned"]
    assert len(env.emitted(events.ROLLOUT_RETURNED)) == 1, "only one of them has decided"
    third = Arms("checkout", rule, env)
    assert third.share(1) == 0, "a worker that starts later hears of it"
    for each in (first, second, third):
        each.retune(settings(0.2, return_when=RULE))
    assert [each.share(1) for each in (first, second, third)] == [0.2] * 3, "other settings begin anew"
    assert Arms("checkout", settings(0.2, return_when=RULE), env).share(1) == 0.2
    second.retire()
    assert second.adopt not in told.applied["rollout:checkout"]


def test_a_return_that_comes_before_its_settings_holds_once_they_are_in_force() -> None:
    told = Told()
    env = make_env(seed=3)
    env.workers = cast("Any", told)
    slow = Arms("checkout", settings(0.3, return_when=RULE), env)
    quick = Arms("checkout", settings(0.2, return_when=RULE), env)
    drive(env, quick, (0.0, 0.5), 60, random.Random(1))
    assert (quick.share(1), slow.share(1)) == (0, 0.3)
    slow.retune(settings(0.2, return_when=RULE))
    assert slow.share(1) == 0
