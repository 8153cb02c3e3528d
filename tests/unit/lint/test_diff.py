"""Tests of what a change of policies means: sentences, risks, Markdown, completeness."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from sidecar.lint.diff import Difference, diff, markdown, sentences, text
from tests.support.cases import each
from tests.unit.lint.examples import completed

IDENTITY = (
    'identities: {id: {jwt: {issuer: "https://id.example", audiences: [a], algorithms: [ES256], '
    'keys: {url: "https://id.example/k"}}}}\n'
)
BASE = "name: orders, upstream: app, timeout: {request: 3s}"


def spec(policies: str, environ: dict[str, str] | None = None) -> PolicySpec:
    loaded = load([completed(policies)], environ or {})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    return loaded.spec


def route(more: str = "", base: str = BASE) -> str:
    return f"routes: [{{{base}{', ' if more else ''}{more}}}]"


def between(old: str, new: str) -> Difference:
    return diff(spec(old), spec(new))


def test_the_sentence_says_what_requests_experience() -> None:
    old = IDENTITY + route("authenticate: {any_of: [id]}, cache: {ttl: 30s}")
    new = IDENTITY + route(
        "authenticate: {any_of: [id]}, cache: {ttl: 30s, shared: true}, retry: {max_attempts: 2, methods: [GET, POST]}",
        "name: orders, upstream: app, timeout: {request: 9s}",
    )
    (subject,) = between(old, new).subjects
    assert subject.is_risk
    assert subject.sentence == (
        "route orders: worst latency 3s to 9s; most upstream calls a request 1 to 2; load on the upstream in an outage "
        "1x to 1.2x; GET, POST now retried; cache shared between callers: yes (was no); time of an attempt 3s to 9s; "
        "retry added"
    )


@each(
    [
        ("", "retry: {methods: [GET, POST]}", "GET, POST now retried", True),
        ("retry: {methods: [GET, POST]}", "retry: {methods: [GET]}", "POST no longer retried", False),
        ("", "hedge: {after: 50ms}", "GET, HEAD, OPTIONS now hedged", False),
        ("circuit_breaker: {}", "", "circuit_breaker removed", True),
        ("pacing: {}", "", "pacing removed", True),
        ("quota: [{name: day, max: 5, per: day}]", "", "quota removed", True),
        ("pacing: {min_rate: 1/s}", "pacing: {min_rate: 30/m}", "pacing.min_rate 1/s to 0.5/s", False),
        ("", "circuit_breaker: {}", "circuit_breaker added", False),
        ("concurrency: {max: 10}", "concurrency: {max: 20}", "requests in flight at most 10 to 20", False),
        ("concurrency: {max: 10}", "concurrency: {max: 10, queue: 5}", "places in the queue 0 to 5", False),
        ("circuit_breaker: {}", "circuit_breaker: {mode: observe}", "circuit_breaker only observes: yes (was no)",
         False),
        ("circuit_breaker: {}", "circuit_breaker: {open_for: 9s}", "breaker stays open for 5s to 9s", False),
        ("", "fault: {abort: {share: 5%}}", "faults are injected: yes (was no)", True),
        ("cache: {ttl: 30s}", "cache: {ttl: 60s}", "cache lifetime 30s to 60s", False),
        ("cache: {max_body: 1MiB}", "cache: {max_body: 2MiB}", "cache.max_body 1MiB to 2MiB", False),
        ("fallback: [stale]", "fallback: [{response: {status: 503}}]", "fallback stale to response 503", False),
        ("rate_limit: [{name: a, rate: 5/s}]", "rate_limit: [{name: a, rate: 9/s}]", "rate limit `a` 5 per second, "
         "with a burst of 5 to 9 per second, with a burst of 9", False),
        ("criticality: critical", "criticality: sheddable", "importance critical to sheddable", False),
        ("match: {path: /a}", "match: {path: /b}", "takes any method /a to any method /b", False),
    ]
)  # fmt: skip
def test_each_change_has_its_words(case: tuple[str, str, str, bool]) -> None:
    old, new, words, is_risk = case
    cache = "cache: {}, " if "fallback: [stale]" in old else ""
    (subject,) = between(route(cache + old), route(cache + new)).subjects
    found = next(change for change in subject.changes if change.text == words)
    assert found.is_risk is is_risk


def test_routes_upstreams_and_sections_come_and_go() -> None:
    two = 'upstreams: {app: {endpoints: ["http://a:80"]}, b: {endpoints: ["http://b:80"]}}\n'
    old = two + "routes: [{name: a, upstream: app}, {name: b, match: {path: /b}, upstream: b}]"
    new = 'limits: {drain_timeout: 9s}\nupstreams: {app: {endpoints: ["http://c:80"], connect_timeout: 50ms}}\n' + (
        "routes: [{name: a, upstream: app}, {name: n, match: {path: /n}, upstream: app, timeout: {request: 1s}}]"
    )
    assert between(old, new).sentences == [
        "route n: new: takes any method /n, worst latency 1s, most upstream calls a request 1",
        "route b: removed: took any method /b; such requests take another route or none",
        "upstream app: connect_timeout 1s to 50ms; http://c:80 now an endpoint; http://a:80 no longer an endpoint",
        "upstream b: removed",
        "limits: drain_timeout 20s to 9s",
    ]


def test_moved_lines_comments_and_other_places_mean_nothing() -> None:
    inherited = "defaults: {timeout: {request: 3s}}\n# a comment\n" + route("", "name: orders, upstream: app")
    difference = between(route(), inherited)
    assert not any(difference)
    assert text(difference) == "  nothing changes in behaviour\n"
    assert "nothing changes" in markdown(difference, "a", "b")


def test_findings_that_appear_and_disappear() -> None:
    difference = between(route("retry: {max_attempts: 9}"), route("retry: {backoff: {jitter: none}}"))
    assert [each.rule for each in difference.appeared] == ["R023"]
    assert [each.rule for each in difference.disappeared] == ["R024"]
    assert "! new finding: " in text(difference)


def test_secrets_and_variables_are_not_shown() -> None:
    token = 'admin: {{address: "127.0.0.1:9901", token: "{}"}}\n'
    assert between(token.format("first") + route(), token.format("second") + route()).sentences == [
        "admin: token changed"
    ]
    variable = 'upstreams: {app: {endpoints: ["http://${HOST}:80"]}}\n' + route()
    lines = sentences(spec(variable, {"HOST": "inner-1"}), spec(variable, {"HOST": "inner-2"}))
    assert lines
    assert not any("inner-" in line for line in lines)


def test_markdown_is_a_table_with_risks_marked() -> None:
    page = markdown(between(route("circuit_breaker: {}"), route("match: {path: '/a|b'}")), "old", "new")
    assert page.startswith("### Policies: 1 change, 1 risk\n\n| | where | what changes |\n|---|---|---|\n")
    assert "| ⚠️ | route orders | circuit_breaker removed |\n" in page
    assert "/a\\|b" in page


def test_the_command(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_bytes(completed(route()).text)
    new.write_bytes(completed(route("", "name: orders, upstream: app, timeout: {request: 9s}")).text)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["diff", *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    expected = "worst latency 3s to 9s; time of an attempt 3s to 9s"
    assert run(str(old), str(new)) == f"! route orders: {expected}\n"
    assert "| ⚠️ | route orders | worst latency 3s to 9s |" in run("--markdown", str(old), str(new))
    document = json.loads(run("--json", str(old), str(new)))
    assert [each["sentence"] for each in document["subjects"]] == [f"route orders: {expected}"]
    new.write_text("version: 2")
    run(str(old), str(new), code=1)
    assert json.loads(run("--json", str(old), str(new), code=1))["ok"] is False
    run("--json", "--markdown", str(old), str(new), code=2)
