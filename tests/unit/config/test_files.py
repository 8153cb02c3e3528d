"""Tests of policy files: reading, YAML 1.2, places, limits, and hostile files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import files
from sidecar.config.files import Source, digest, parse, read
from sidecar.config.node import Node
from sidecar.config.report import Report


def load(text: str | bytes, environ: Mapping[str, str] | None = None) -> tuple[Node | None, list[str]]:
    report = Report()
    source = Source("f.yaml", text.encode() if isinstance(text, str) else text)
    node = parse(source, environ or {}, report)
    return node, [str(problem) for problem in report.problems]


def value(text: str | bytes, **environ: str) -> Any:
    node, problems = load(text, environ)
    assert problems == []
    assert node is not None
    return node.plain()


def problem(text: str | bytes, **environ: str) -> str:
    _, problems = load(text, environ)
    assert len(problems) == 1, problems
    return problems[0]


# ----- the core schema of YAML 1.2


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "y", "n", "On", "NO", "12:30:45", "2026-01-02", "1_000", "0b1"]
)
def test_words_of_yaml_1_1_are_words(word: str) -> None:
    assert value(f"a: {word}") == {"a": word}


def test_the_natural_spelling_of_a_retry_has_the_key_on() -> None:
    assert value("retry: {on: [502, 5xx]}") == {"retry": {"on": [502, "5xx"]}}


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("010", 10), ("0o17", 15), ("0xff", 255), ("-3", -3), ("+3", 3), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("'3'", "3"), ('"on"', "on"),
        ("250ms", "250ms"), ("20%", "20%"), ("..", ".."),
    ],
)  # fmt: skip
def test_plain_scalars(word: str, meaning: object) -> None:
    assert value(f"a: {word}") == {"a": meaning}


def test_infinity_and_not_a_number() -> None:
    found = value("a: .inf\nb: -.INF\nc: .nan")
    assert (found["a"], found["b"]) == (float("inf"), float("-inf"))
    assert found["c"] != found["c"]


def test_keys_are_the_words_as_written() -> None:
    assert value("502: a\ntrue: b\n~: c\n1.0: d") == {"502": "a", "true": "b", "~": "c", "1.0": "d"}


def test_a_long_number_costs_no_quadratic_time() -> None:
    assert value(f"a: {'1' * 100_000}")["a"] == float("inf")


# ----- places


def test_every_value_knows_its_place_and_its_path() -> None:
    node, _ = load("routes:\n  - name: order\n    retry: {on: [502, 503]}\n  - [a]\n")
    assert node is not None
    status = node.find(("routes", 0, "retry", "on", 1))
    assert status is not None
    assert (status.value, status.place, status.path) == (503, ("f.yaml", 3, 23), "routes.order.retry.on[1]")
    retry = node.find(("routes", 0, "retry"))
    assert retry is not None
    assert retry.place == ("f.yaml", 3, 5)
    last = node.find(("routes", 1, 0))
    assert last is not None
    assert last.path == "routes[1][0]"
    assert node.find(("routes", 7)) is None
    assert node.find(("routes", "x", "y")) is None


def test_a_shared_value_keeps_the_place_where_it_was_written() -> None:
    node, _ = load("a: &x {b: 1}\nc: *x\n")
    assert node is not None
    shared = node.find(("c", "b"))
    assert shared is not None
    assert (shared.value, shared.mark.line, shared.path) == (1, 1, "a.b")


# ----- mistakes


def test_duplicate_keys_show_both_places() -> None:
    _, problems = load("a: 1\nb: {c: 2, c: 3}\na: 4\n")
    assert problems == [
        "f.yaml:2:11: b.c: is defined twice: here and at f.yaml:2:5; keep one of them",
        "f.yaml:3:1: a: is defined twice: here and at f.yaml:1:1; keep one of them",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b\n c: d", "f.yaml:2:3: is not valid YAML: mapping values are not allowed"),
        ('a: "x', "f.yaml:1:7: is not valid YAML"),
        (
            "a:\n  - {b: 1,\nc\n",
            "f.yaml:4:1: is not valid YAML: while parsing a flow mapping that begins at 2:5, did not",
        ),
        ("a: b\n\t- c", "f.yaml:2:1: is not valid YAML"),
        ("a: !!python/object:os.system x", "f.yaml:1:4: a: has the tag `tag:yaml.org,2002:python/object:os.system`"),
        ("a: !!python/object/apply:os.system [x]", "f.yaml:1:4: a: has the tag"),
        ("a: !S x", "f.yaml:1:4: a: has the tag `!S`"),
        ("! a: b", "f.yaml:1:1: has the tag `!`"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: starts a second document"),
        ("[a]: b", "f.yaml:1:1: a key must be a word"),
        ("? {a: b}\n: c", "f.yaml:1:3: a key must be a word"),
        ("&a a: b\n*a : c", "f.yaml:2:1: an alias cannot be a key"),
        ("a: *b", "f.yaml:1:4: the anchor `&b` is not defined above"),
        ("a: &a [*a]", "f.yaml:1:8: the anchor `&a` contains itself"),
        ("a: &x {b: 1}\nc: {<<: *x}", "f.yaml:2:5: c: merge keys are not YAML 1.2"),
        ('a: "\x00"', "f.yaml:1:5: has the control character U+0000"),
        ("a: b\nc: \x07", "f.yaml:2:4: has the control character U+0007"),
        (b"a: b\nc: \xff", "f.yaml:2:4: is not UTF-8 text"),
        ("a: é".encode("utf-16"), "f.yaml:1:1: is not UTF-8 text"),
        ('a: "\\ud800"', "f.yaml:1:4: is not valid YAML"),
    ],
)
def test_mistakes_have_a_place_and_a_remedy(text: str | bytes, words: str) -> None:
    found = problem(text)
    assert found.startswith(words) or (words.endswith("is not valid YAML") and "is not valid YAML" in found)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("a: {b: /orders/{id}}", 'into quotes, such as "/orders/{id}"'),
        ("a: b: c", 'into quotes, such as "/orders/{id}"'),
        ("a:\n\t- c", "indent with spaces, not tabs"),
        ("a: %b", "into quotes, and indent"),
    ],
)
def test_mistakes_of_yaml_have_a_remedy(text: str, remedy: str) -> None:
    assert remedy in problem(text)


def test_a_byte_order_mark_is_no_character() -> None:
    assert value(b"\xef\xbb\xbfa: 1") == {"a": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n"])
def test_an_empty_file_is_nothing(text: str) -> None:
    assert load(text) == (None, [])


# ----- hostile files


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for name, last in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]")
    assert problem("\n".join(lines)).endswith(
        "has more than 20000 values; split it into several files of one directory"
    )


def test_aliases_cannot_add_up_to_depth() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60))]
    assert "is nested deeper than 40 levels" in problem("\n".join(lines))


@pytest.mark.parametrize(
    "text", ["[" * 500_000, "{a: " * 200_000, "- " * 300_000, "\n".join(" " * n + "a:" for n in range(1000))]
)
def test_depth_is_bounded_before_anything_recurses(text: str) -> None:
    assert "is nested deeper than 40 levels" in problem(text)


def test_width_is_bounded() -> None:
    assert "has more than 20000 values" in problem("a: [" + "b," * 30_000 + "]")


def test_size_is_bounded() -> None:
    assert problem(b"a: " + b"x" * files.MAX_BYTES) == (
        "f.yaml:1:1: is larger than 1 MiB; split it into several files of one directory"
    )


def test_variables_cannot_blow_a_file_up() -> None:
    _, problems = load("a: ['" + "', '".join(["${BIG}"] * 100) + "']", {"BIG": "x" * 100_000})
    assert "is too long with its environment variables" in problems[0]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_file_at_all_raises(text: bytes) -> None:
    node, problems = load(text)
    if node is not None and not problems:
        node.plain()


@given(st.text(alphabet="ab01:-[]{},&*!|>?'\"%@`# \n\t~<$", max_size=120))
def test_no_yaml_raises(text: str) -> None:
    load(text)


# ----- the environment


def test_a_variable_that_is_not_text_is_named() -> None:
    told = problem("a: ${NAME}", NAME="\udcff")
    assert told.endswith("needs the environment variable NAME, which is not UTF-8 text; set it to UTF-8 text")


def test_variables() -> None:
    text = 'a: ${HOST}:80\nb: "${MAX}"\nc: ${MAX}\nd: ${NONE:-x y}\ne: ${EMPTY:-full}\nf: ${EMPTY}\n'
    text += "g: $${HOST}\nh: $HOST\n"
    assert value(text, HOST="h", MAX="3", EMPTY="") == {
        "a": "h:80", "b": "3", "c": 3, "d": "x y", "e": "full", "f": None, "g": "${HOST}", "h": "$HOST",
    }  # fmt: skip


def test_a_variable_is_one_scalar_and_never_structure() -> None:
    assert value("a: ${X}", X="1, b: 2\nc: [3]") == {"a": "1, b: 2\nc: [3]"}


def test_keys_are_not_replaced() -> None:
    assert value("${X}: 1", X="a") == {"${X}": 1}


def test_a_missing_variable_is_told_once() -> None:
    assert problem("a: {b: '${NONE}'}") == (
        "f.yaml:1:8: a.b: needs the environment variable NONE; set it or give a default: ${NONE:-value}"
    )
    assert "write ${NAME}" in problem("a: ${not a name}")
    assert "write ${NAME}" in problem("a: '${'")


# ----- the disk


def test_a_directory_is_read_in_name_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "c.test.yaml", "schema.json", "notes.txt"):
        (tmp_path / name).write_text(f"name: {name}")
    (tmp_path / "d.yaml").mkdir()
    sources = read(str(tmp_path))
    assert [Path(source.name).name for source in sources] == ["a.yml", "b.yaml"]
    assert sources[0].text == b"name: a.yml"


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "a.yaml").write_text("version: 1")
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "a.yaml").symlink_to(tmp_path / "..data" / "a.yaml")
    assert [source.text for source in read(str(tmp_path))] == [b"version: 1"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere\.yaml: No such file"):
        read(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(OSError, match=r"the directory has no \*\.yaml"):
        read(str(tmp_path))


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"x" * (files.MAX_BYTES + 4096))
    (source,) = read(str(path))
    assert len(source.text) == files.MAX_BYTES + 1


def test_the_digest_is_of_names_and_contents() -> None:
    one = [Source("a", b"1"), Source("b", b"2")]
    assert digest(one) == digest(list(one))
    assert (
        len(
            {digest(one), digest(one[:1]), digest([Source("a", b"12")]), digest([Source("a", b"1"), Source("c", b"2")])}
        )
        == 4
    )
