"""Tests of scenario files: all are valid, and a mistake in one is reported with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.scenario.files import SCENARIOS, Loaded, ScenarioError, load, policies, remove, schema, without
from sidecar.config.files import Source, parse
from sidecar.config.load import load as load_policies
from sidecar.config.report import Report
from sidecar.demo import examples
from tests.support import scenarios

ALL = list(scenarios.ALL.values())
NAMES = list(scenarios.ALL)


@pytest.mark.parametrize(
    "text", ["$${X}", "a$${b}$${", "$$${X}", "$$$${X}", "${X}", "${X:-d}$${X:-d}", "$X {X}", "off", "3"]
)
@pytest.mark.parametrize("value", ["7", "$${Y}", "${Y}", ""])
def test_what_is_left_means_what_it_meant(text: str, value: str) -> None:
    source = Source("p.yaml", f'a: ["{text}", {{x: "{text}"}}]\nroutes: {{r: 1}}\n'.encode())
    environ = {"X": value}
    before = parse(source, environ, Report())
    (written,) = without([source], ["routes.r"], environ)
    after = parse(written, environ, report := Report())
    assert not report.problems
    assert before is not None
    assert after is not None
    assert after.plain() == {**before.plain(), "routes": {}}


def test_there_are_sixteen_scenarios_at_least() -> None:
    assert len(ALL) >= 16


@pytest.mark.parametrize("loaded", ALL, ids=NAMES)
def test_the_policies_of_a_scenario_are_valid(loaded: Loaded) -> None:
    for service in loaded.scenario.policies:
        found = load_policies(policies(loaded, service), Environment(loaded))
        assert not found.problems, "\n".join(map(str, found.problems))


class Environment(dict[str, str]):
    """Environment with the variables of the policies in a run."""

    def __init__(self, loaded: Loaded) -> None:
        scenario = loaded.scenario
        super().__init__(
            {"APP": "127.0.0.1:9000", "SERVICE": "x", "EXAMPLES": str(examples.find(""))}
            | dict.fromkeys(("INBOUND", "OUTBOUND", "ADMIN"), "127.0.0.1:0")
        )
        for number, name in enumerate(
            (*scenario.services, *scenario.stores, *scenario.collectors, *scenario.api_servers)
        ):
            for replica in range(5):
                self[f"{name.upper()}_{replica}"] = f"127.0.0.1:{9100 + 10 * number + replica}"
            self[name.upper()] = self[f"{name.upper()}_0"]
            self[f"{name.upper()}_PORT"] = "9100"


@pytest.mark.parametrize("loaded", [each for each in ALL if each.scenario.decisive], ids=lambda each: each.name)
def test_policies_without_their_decisive_blocks_are_valid(loaded: Loaded) -> None:
    for service, blocks in loaded.scenario.decisive.items():
        environ = Environment(loaded)
        found = load_policies(without(policies(loaded, service), blocks, environ), environ)
        assert not found.problems, "\n".join(map(str, found.problems))


@pytest.mark.parametrize("loaded", ALL, ids=NAMES)
def test_a_scenario_has_expectations_and_a_source(loaded: Loaded) -> None:
    scenario = loaded.scenario
    assert ("bare" in scenario.arms) == bool(scenario.expect.cascade)
    assert "sidecar" in scenario.arms
    assert any(each.measure in ("goodput", "amplification", "recovery") for each in scenario.expect.contained)
    assert scenario.decisive or "bare" not in scenario.arms, "nothing shows that a policy of ours decides"
    assert scenario.story
    assert scenario.source


def test_mistakes_are_reported_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    text = (SCENARIOS / "slow_dependency.yaml").read_text()
    text = text.replace("rate: 30/s", "rate: 30").replace("workers: 36", "worker: 36")
    path.write_text(text.replace("fault: slow", "fault: slov").replace("{measure: detection", "{measured: detection"))
    with pytest.raises(ScenarioError) as told:
        load([path])
    lines = str(told.value).splitlines()
    assert any("worker: is not a known key; did you mean `workers`?" in line for line in lines), lines
    assert any("is not a rate; write it such as 100/s" in line for line in lines), lines
    assert any("has an unknown fault, `slov`; did you mean `slow`?" in line for line in lines), lines
    assert any("does not say what it is; add the key 'measure'" in line for line in lines), lines
    assert all(line.startswith(f"{path}:") and line.split(":")[1].isdigit() for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("on: payments", "on: payment", "names `payment`; known are"),
        ("to: payments, path", "to: shop, path", "call each other in a circle"),
        ("of: browse", "of: brows", "names the class `brows`"),
    ],
)
def test_names_that_do_not_fit_together_are_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((SCENARIOS / "slow_dependency.yaml").read_text().replace(old, new))
    with pytest.raises(ScenarioError, match=message):
        load([path])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("captured: [shop]", "captured: [ledger]", "captured: `ledger` has no sidecar; known are shop"),
        ("captured: [shop]", "", "`shop` calls `ledger` by plain TCP; list `shop` in captured"),
        ("to: shop, path: /book", "to: ledger, path: /book", "load: `ledger` speaks plain TCP"),
        ("policies:\n", "policies:\n  mailer: [../policies/pass.yaml]\n", "policies: `mailer` speaks plain TCP"),
        ("fault: reset, on: ledger", "fault: status, on: ledger", "status needs HTTP, which `ledger` does not speak"),
    ],
)
def test_plain_tcp_where_only_http_is_spoken_is_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (SCENARIOS / "captured_tcp.yaml").read_text()
    assert old in text
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ScenarioError, match=message):
        load([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="chaos list"):
        load([tmp_path / "nothing.yaml"])


def test_the_schema_forbids_unknown_keys() -> None:
    document = json.loads(schema())
    assert document["additionalProperties"] is False
    assert {"services", "load", "faults", "expect"} <= set(document["properties"])


def test_blocks_are_removed_by_name() -> None:
    document = {"routes": [{"name": "a", "retry": {"max_attempts": 2}}, {"name": "b", "retry": {}}], "x": {"y": 1}}
    remove(document, ["routes", "a", "retry"])
    assert document["routes"] == [{"name": "a"}, {"name": "b", "retry": {}}]
    remove(document, ["routes", "*", "retry"])
    assert document["routes"] == [{"name": "a"}, {"name": "b"}]
    remove(document, ["x", "y"])
    assert document["x"] == {}
    with pytest.raises(KeyError):
        remove(document, ["routes", "c", "retry"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("policies/pass.yaml", "policies/nothing.yaml", "policies.shop[1]: names "),
        ("policies/base.yaml", "policies", "policies.shop[0]: names "),
        ("[routes.for.fallback]", "[routes.for.retry]", "decisive.shop[0]: names the block routes.for.retry, which"),
        ("[routes.for.fallback]", "[routes.from.fallback]", "decisive.shop[0]: names the block routes.from.fallback"),
        ("{shop: [routes.for", "{recommendations: [routes.for", "decisive: `recommendations` has no policies"),
        (
            "decisive: {shop: [routes.for.fallback]}",
            "credit: {shop: [caches]}",
            "credit.shop[0]: names the block caches",
        ),
        (
            "{fault: kill, on: recommendations, for: 4s}",
            "{fault: policy, on: shop, for: 4s, file: gone.yaml}",
            "faults[0].file: names gone.yaml, which cannot be read (No such file or directory)",
        ),
    ],
)
def test_policies_and_blocks_that_are_not_there_are_load_errors(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (SCENARIOS / "hard_down_dependency.yaml").read_text()
    text = text.replace("../policies", str(SCENARIOS.parent / "policies"))
    assert old in text
    path = tmp_path / "s.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ScenarioError) as raised:
        load([path])
    assert message in str(raised.value), str(raised.value)
    assert str(raised.value).startswith(f"{path}:")
