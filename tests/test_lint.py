"""Tests of the linter of prose: which docstrings, comments and names it reports, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import lint
from docs.lint import check_source


def messages(source: str) -> list[str]:
    """Return the findings of one module, as `line: message`."""
    return [f"{finding.line}: {finding.message}" for finding in check_source("some.py", source)]


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ("It keeps connections.", "It"),
        ("Of connections, as the metrics tell them.", "Of"),
        ("Those that wait.", "Those"),
        ("Whoever waits.", "Whoever"),
        ("What a client sent.", "What"),
        ("Is it the client that we wait for?", "Is"),
        ("How long it waits.", "How"),
        ("`When` it ends.", "When"),
        ("One of them.", "One of"),
        ("one that waits.", "one that"),
    ],
)
def test_a_docstring_that_opens_with_a_pronoun_or_question_word_is_reported(text: str, opening: str) -> None:
    found, *_ = messages(f'"""{text}"""\n')
    assert found == f"1: docstring opens with {opening!r}; name its subject: Return ..., True if ..., Cache of ..."


@pytest.mark.parametrize(
    "text",
    [
        "Return the length in bytes.",
        "True if the client waits.",
        "One connection to an endpoint.",
        "Items that wait.",
        "Addresses of a listener: it may have several.",
        "",
    ],
)
def test_a_docstring_that_names_its_subject_is_left_alone(text: str) -> None:
    assert not messages(f'"""{text}"""\n')


def test_docstrings_of_every_kind_are_checked() -> None:
    source = '''"""It is a module."""
LIMIT = 3
"""It is a constant."""
class Pool:
    """It is a class."""
    size: int
    """It is an attribute."""
    def close(self) -> None:
        """It is a method."""
        if LIMIT:
            async def inner() -> None:
                """It is a function in a function."""
try:
    import uvloop
except ImportError:
    uvloop = None
    """It is set in a handler."""
text = """It is a value."""
'''
    assert [finding.line for finding in check_source("some.py", source)] == [1, 3, 5, 7, 9, 12, 17]


def test_a_first_line_that_is_a_question_is_reported() -> None:
    assert messages('"""Client or upstream?\n\nReturn both."""\n') == [
        "1: docstring asks a question; state the answer: Return ..., True if ..., Time after which ..."
    ]
    assert not messages('"""Return the side.\n\nWhy not both?  One suffices."""\n')


@pytest.mark.parametrize(
    "figure",
    [
        "5 us",
        "0.4us",
        "12 µs",
        "250 ns",
        "30 microseconds",
        "95,000 instructions",
        "2.4 x Envoy",
        "3 times that of nginx",
        "costs 36 ms",
        "took about 2 s",
        "worth 10 to 30 %",
        "saves some 40 KiB",
        "20 % faster",
        "3 times slower",
    ],
)
def test_a_measured_figure_is_reported(figure: str) -> None:
    for source in (f'"""Look-up of a name: {figure}."""\n', f"x = 1  # a look-up: {figure}\n"):
        (found,) = messages(source)
        assert found == f"1: measured figure {figure!r}; keep the reason, and put the figure into bench/README.md"


@pytest.mark.parametrize(
    "text",
    [
        "Longest pause between two pieces of a body (nginx: 60s).",
        "Share of failed calls that opens the circuit (Resilience4j: 50%, Polly: 10%).",
        "Transports take 512 KiB by default before they say so.",
        "Buckets are right within 3 %.",
        "Instants in microseconds, at most 3 of them.",
        "Task creation dominates: `5 us` is code.",
    ],
)
def test_limits_defaults_and_units_are_left_alone(text: str) -> None:
    assert not messages(f'"""{text}"""\nx = 1  # {text}\n')


def test_metaphors_are_reported_at_their_line_with_the_word_to_use() -> None:
    source = '"""Cache of answers.\n\nA guest waits at\nthe door."""\nx = 1  # whoever asks\ny = "a guest"\n'
    assert messages(source) == [
        "3: 'guest' is a metaphor here; write connection",
        "4: 'door' is a metaphor here; write listener, acceptor or admission",
        "5: 'whoever' is a metaphor here; write the caller, client or reader that is meant",
    ]


def test_terms_of_the_field_and_code_are_left_alone() -> None:
    assert not messages('"""Requests in\n    flight, in-flight limits, single-flight, `guest`, and indoors."""\n')


def test_names_are_checked_too() -> None:
    assert messages("class Flight: ...\ndef heed_it(): ...\nclass ErrandPool: ...\nclass PoolManager: ...\n") == [
        "1: name Flight: 'Flight' is a metaphor here; write fetch; a request is `in flight`",
        "2: name heed_it: 'heed' is a metaphor here; write obey, read or apply",
        "3: name ErrandPool: 'Errand' is a metaphor here; write task or request",
        "4: class PoolManager says nothing of what it does; name it for its subject, such as Pool",
    ]
    assert not messages("class AttemptInFlight: ...\ndef count_in_flight(): ...\nclass Helpful: ...\n")


def test_the_command_prints_each_finding_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clean.py").write_text('"""Pool of connections."""\n')
    assert lint.main([str(tmp_path)]) == 0
    (tmp_path / "odd.py").write_text('"""It waits."""\n')
    assert lint.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'odd.py'}:1: docstring opens with 'It'")
