"""Tests of comments that suppress findings."""

from __future__ import annotations

from tests.support.cases import each
from tests.unit.lint.examples import run

MANY = "retry: {max_attempts: 8}"
ROUTE = "routes:\n  - name: r\n    upstream: app\n    timeout: {request: 9s}\n    "


def test_a_comment_with_a_reason_suppresses_the_finding_of_its_line() -> None:
    assert [each.rule for each in run(ROUTE + MANY).findings] == ["R024"]
    result = run(f"{ROUTE}{MANY}  # lint: ignore R024: the ledger has capacity for it")
    assert result.findings == []
    assert [(each.rule, each.reason) for each in result.suppressed] == [("R024", "the ledger has capacity for it")]


def test_a_comment_alone_counts_for_the_next_value() -> None:
    text = f"{ROUTE}# lint: ignore R024: tried\n    # another comment\n\n    {MANY}"
    assert run(text).findings == []


def test_a_comment_counts_for_its_line_alone() -> None:
    text = f"{ROUTE}{MANY}\n    hedge: {{after: 1s}}  # lint: ignore R024: tried"
    assert sorted(each.rule for each in run(text).findings) == ["R024", "R099"]


def test_a_comment_may_count_for_the_whole_file() -> None:
    result = run(
        f"# lint: ignore-file R024, R007: an experiment\n{ROUTE}{MANY}\n"
        "  - {name: s, match: {path: /s}, upstream: app}"
    )
    assert result.findings == []
    assert [each.rule for each in result.suppressed] == ["R024", "R007"]


@each(
    [
        ("ignore R024", "gives no reason"),
        ("ignore R024:", "gives no reason"),
        ("ignore: tried", "names no rule"),
        ("ignore R999: tried", "names R999, which is no rule"),
        ("disable R024: tried", "is not a comment that lint knows"),
        ("ignore R007: tried", "suppresses R007, which finds nothing here"),
    ]
)
def test_a_wrong_comment_is_found_and_suppresses_nothing(case: tuple[str, str]) -> None:
    comment, message = case
    findings = run(f"{ROUTE}{MANY}  # lint: {comment}").findings
    assert sorted(each.rule for each in findings) == ["R024", "R099"]
    problem = next(each.problem for each in findings if each.rule == "R099")
    assert message in problem.message
    assert problem.line == 8


def test_a_warning_of_loading_can_be_suppressed_too() -> None:
    text = f"{ROUTE}retry: {{max_attempts: 1}}"
    assert [each.rule for each in run(text).findings] == ["R000"]
    assert run(f"{text}  # lint: ignore R000: switched off for a while").findings == []
