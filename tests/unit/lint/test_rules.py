"""Tests of the table of rules: both examples of each, identifiers, messages, the examples in `policies/`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sidecar.config.files import read
from sidecar.config.load import load
from sidecar.lint.known import CHECK, COMMENT, every_rule
from sidecar.lint.rule import Rule
from sidecar.lint.run import find, lint
from sidecar.lint.table import RULES
from tests.support.cases import each
from tests.support.work import grows_with
from tests.unit.lint.examples import completed, found, names

POLICIES = Path(__file__).parents[3] / "policies"
REMEDY = re.compile(
    r"\b(add|allow|break|give|lengthen|leave|lower|make|name|raise|retry|set|shorten|take|use|write|hedge) ?[^;]*$"
)


@each(every_rule().values())
def test_each_rule_finds_its_failing_example_and_not_its_passing_one(rule: Rule) -> None:
    assert rule.id in names(rule.failing, rule.traffic)
    assert rule.id not in names(rule.passing, rule.traffic)


@each(every_rule().values())
def test_passing_examples_are_free_of_warnings(rule: Rule) -> None:
    assert [each.text for each in found(rule.passing, rule.traffic) if each.severity != "note"] == []


@each(RULES)
def test_what_a_rule_finds_is_not_told_by_loading_too(rule: Rule) -> None:
    places: dict[object, set[str]] = {}
    for finding in found(rule.failing, rule.traffic):
        places.setdefault(finding.problem[:3], set()).add(finding.rule)
    assert [sorted(rules) for rules in places.values() if {rule.id, CHECK} <= rules] == []


@each(every_rule().values())
def test_messages_end_with_what_would_be_right(rule: Rule) -> None:
    for finding in found(rule.failing, rule.traffic):
        if finding.rule == rule.id:
            assert "\n" not in finding.text
            assert REMEDY.search(finding.problem.message.rpartition("; ")[2]), finding.text


def test_rules_are_many_and_have_identifiers_of_their_own() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) >= 35
    assert all(re.fullmatch(r"R\d{3}", rule.id) for rule in every_rule().values())
    assert list(every_rule()) == sorted(every_rule())
    assert all(rule.source and rule.why.endswith(".") for rule in every_rule().values())


def policy_sets() -> list[Path]:
    files = [path for path in POLICIES.rglob("*.yaml") if not path.name.endswith(".test.yaml")]
    assert len(files) > 20
    return files


@each(policy_sets())
def test_no_example_is_found_without_a_reason(path: Path) -> None:
    sources = read(str(path))
    result = lint(load(sources, os.environ), sources)
    assert [each.text for each in result.findings] == []
    assert all(each.reason for each in result.suppressed)
    assert COMMENT not in {each.rule for each in result.findings}


def test_an_inherited_value_is_found_once() -> None:
    routes = ", ".join(f"{{name: r{number}, match: {{path: /{number}}}, upstream: app}}" for number in range(5))
    text = f"defaults: {{timeout: {{request: 3s}}, retry: {{backoff: {{jitter: none}}}}}}\nroutes: [{routes}]"
    assert [each.rule for each in found(text)] == ["R023"]


def test_values_of_variables_are_not_shown() -> None:
    source = completed(
        "routes: [{name: r, upstream: app, timeout: {request: '${T}', attempt: 4s}, retry: {max_attempts: 3}}]"
    )
    spec = load([source], {"T": "5s"}).spec
    assert spec is not None
    messages = [each.problem.message for each in find(spec)]
    assert any("${T}" in message for message in messages)
    assert not any("5s" in message for message in messages)


def test_work_grows_with_the_number_of_routes_and_no_faster() -> None:
    def policies(routes: int):  # type: ignore[no-untyped-def]
        one = "- {{name: r{0}, match: {{path: /{0}}}, upstream: app, timeout: {{request: 3s}}, retry: {{}}}}"
        spec = load([completed("routes:\n" + "\n".join(one.format(n) for n in range(routes)))], {}).spec
        assert spec is not None
        return lambda: list(find(spec))

    assert not grows_with(policies, 25)


QUEUE = "concurrency: {max: 10, queue: 10, queue_timeout: 2s}"
SLOW = "circuit_breaker: {slow_calls: {longer_than: 2s, rate: 80%}}"
SHARED = {
    "a queue that all requests precede": (QUEUE, "1s", "R006", True),
    "a queue that one request does not precede": (QUEUE, "3s", "R006", False),
    "slow calls that no route has": (SLOW, "1s", "R005", True),
    "slow calls that one route has": (SLOW, "3s", "R005", False),
}


@each(SHARED)
def test_times_of_blocks_that_routes_of_an_upstream_share(name: str) -> None:
    block, longest, rule, expected = SHARED[name]
    one = "{{name: {0}, match: {{path: /{0}}}, upstream: app, timeout: {{request: {1}}}}}"
    routes = f"routes: [{one.format('a', '500ms')}, {one.format('b', longest)}, {one.format('c', '500ms')}]"
    text = f'upstreams: {{app: {{endpoints: ["http://a:80"], {block}}}}}\n{routes}'
    rules = [each.rule for each in found(text)]
    assert rules.count(rule) == expected, "once for all routes"


PACED = {
    "of the upstream": ("3s", "", True),
    "of the route": ("100ms", ", pacing: {max_wait: 2s}", True),
    "short ones": ("100ms", ", pacing: {max_wait: 200ms}", False),
}


@each(PACED)
def test_waits_of_pacing_that_take_the_whole_request(name: str) -> None:
    shared, own, expected = PACED[name]
    one = "{{name: {0}, match: {{path: /{0}}}, upstream: app, timeout: {{request: 2s}}{1}}}"
    upstream = f'upstreams: {{app: {{endpoints: ["http://a:80"], pacing: {{max_wait: {shared}}}}}}}'
    rules = [each.rule for each in found(f"{upstream}\nroutes: [{one.format('a', '')}, {one.format('b', own)}]")]
    assert rules.count("R077") == expected


ALL = "routes: {a: {rate: 50/s, latency: {p50: 100ms}}, b: {rate: 100/s, latency: {p50: 50ms}}}"
LOADS = {
    "less than both together": ("{max: 8}", "{}", True),
    "enough for both": ("{max: 30}", "{}", False),
    "some answers come from a cache": ("{max: 8}", "cache: {ttl: 1m}", False),
}


@each(LOADS)
def test_usual_load_of_a_limit_that_routes_of_an_upstream_share(name: str) -> None:
    limit, more, expected = LOADS[name]
    one = "{{name: {0}, match: {{path: /{0}}}, upstream: app, timeout: {{request: 1s}}{1}}}"
    routes = f"routes: [{one.format('a', '')}, {one.format('b', '' if more == '{}' else f', {more}')}]"
    text = f'upstreams: {{app: {{endpoints: ["http://a:80"], concurrency: {limit}}}}}\n{routes}'
    messages = [each.problem.message for each in found(text, ALL) if each.rule == "R063"]
    assert len(messages) == expected
    assert all("rates x latencies of 2 routes are 10 requests in flight" in each for each in messages)


@each([(", ipv6_prefix: 64", ", ipv6_prefix: 48"), ("", ", store: fleet"), (", store: fleet", ", store: other")])
def test_a_quota_of_more_clients_or_processes_than_a_rate_limit_is_reached(case: tuple[str, str]) -> None:
    known = every_rule()["R076"]
    limit, _, quota = known.failing.partition("quota:")
    limit = limit.replace("address}", f"address{case[0]}}}")
    quota = quota.replace("address}", f"address{case[1]}}}")
    stores = "stores: {fleet: {redis: {url: 'redis://a'}}, other: {redis: {url: 'redis://b'}}}"
    assert "R076" not in names(f"{limit}quota:{quota}\n{stores}\n", known.traffic)


@each(["R068", "R076"])
def test_limits_of_answers_are_not_compared_with_limits_of_requests(rule: str) -> None:
    known = every_rule()[rule]
    text = known.failing.replace("key: client.address}", "key: client.address, cost: {answer_size: 64KiB}}", 1)
    assert text != known.failing
    assert rule not in names(text, known.traffic)
