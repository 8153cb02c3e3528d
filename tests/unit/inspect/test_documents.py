"""JSON documents of the commands: member by member, in their documented shapes.

`UPDATE_GOLDEN=1 pytest` writes the files: read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.inspect.documents import (
    SHAPES,
    DiffDocument,
    ExplainDocument,
    LintDocument,
    ProblemsDocument,
    RecommendDocument,
    ReplayDocument,
    RoutesDocument,
)
from tests.unit.replay.truth import POLICIES as ROUTED
from tests.unit.replay.truth import Truth, logged, traffic
from tests.unit.replay.truth import policies as route_policies

GOLDEN = Path(__file__).parent / "golden"
POLICIES = "policies.yaml"
AGGREGATION = str(Path(__file__).parents[3] / "policies" / "aggregation.yaml")
TRANSCODING = str(Path(__file__).parents[3] / "policies" / "transcoding.yaml")
OUT = ("--listener", "outbound")


def run(*arguments: str, code: int = 0) -> Any:
    """Return the document that a command prints with `--json`."""
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    return json.loads(result.stdout)


def check_shape(value: Any, shape: Any, seen: set[Any] | None = None) -> None:
    """Fail if a value has a member that its shape does not have, lacks one, or has one of another type.

    The shapes that were met are added to `seen`.
    """
    inner = get_args(shape)
    if is_typeddict(shape):
        hints = get_type_hints(shape)
        assert list(value) == list(hints), shape
        for name, hint in hints.items():
            check_shape(value[name], hint, seen)
        if seen is not None:
            seen.add(shape)
    elif get_origin(shape) is UnionType:
        rest = [each for each in inner if each is not NoneType]
        if value is not None and len(rest) == 1:
            check_shape(value, rest[0], seen)
        else:
            assert type(value) in inner, shape
    elif get_origin(shape) is Literal:
        assert value in inner, shape
    elif get_origin(shape) is list:
        for each in value:
            check_shape(each, inner[0], seen)
    elif get_origin(shape) is dict:
        for each in value.values():
            check_shape(each, inner[1], seen)
    else:
        assert shape is Any or type(value) is shape, (value, shape)


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("routes", RoutesDocument, ("routes", POLICIES)),
        ("explain-match", ExplainDocument, ("explain", POLICIES, "GET", "http://orders:8080/orders/a%20b?x=1")),
        ("explain-upstream", ExplainDocument, ("explain", POLICIES, "POST", "http://Payments.prod/v1/./x", *OUT)),
        ("explain-405", ExplainDocument, ("explain", POLICIES, "DELETE", "http://payments.prod/v2", *OUT)),
        ("explain-404", ExplainDocument, ("explain", POLICIES, "GET", "http://payments/v1", *OUT)),
        ("explain-readings", ExplainDocument, ("explain", POLICIES, "GET", "/orders/a%2Fb")),
    ],
)
def test_member_by_member(name: str, shape: Any, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    document = run(*arguments)
    check_shape(document, shape)
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(json.dumps(document, indent=1) + "\n")
    assert document == json.loads(golden.read_text())


HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams:
  app: {endpoints: ["http://127.0.0.1:9000"], concurrency: {max: 9}}
  found: {discover: {dns: app.example, port: 80}}
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(
        HEAD
        + """\
routes:
  - {name: cached, match: {path: /c, when: "request.method == 'GET'"}, upstream: app, cache: {ttl: 5s}}
  - {name: looked-up, match: {host: x.example, path_regex: "/v[0-9]+"}, upstream: found}
"""
    )
    return path


def test_a_cache_and_a_condition_are_there(policies: Path) -> None:
    document = run("explain", str(policies), "GET", "/c")
    check_shape(document, ExplainDocument)
    route = document["route"]
    assert route["match"]["when"] == "request.method == 'GET'"
    assert route["cache"][0].startswith("is looked up in the cache default as ")
    assert [(each["policy"], each["scope"]) for each in route["stages"]] == [
        ("cache", "route"),
        ("concurrency", "upstream"),
    ]
    ttl = next(each for each in route["stages"][0]["values"] if each["key"] == "ttl")
    assert ttl == {"key": "ttl", "value": "5s", "place": {"file": str(policies), "line": 7}}


def test_a_discovered_upstream_has_no_endpoints(policies: Path) -> None:
    document = run("routes", str(policies))
    check_shape(document, RoutesDocument)
    assert document["routes"][1]["upstream"] == {
        "name": "found",
        "endpoints": [],
        "discover": {"dns": "app.example", "port": 80, "source": "dns:app.example:80"},
        "place": {"file": str(policies), "line": 5},
    }
    assert document["routes"][1]["match"]["path_regex"] == "/v[0-9]+"


def test_more_routes_than_are_listed_are_told(policies: Path) -> None:
    routes = [f'  - {{name: r{n}, match: {{path: /r, headers: {{x-n: "{n}"}}}}, upstream: app}}\n' for n in range(11)]
    policies.write_text(HEAD + "routes:\n" + "".join(routes))
    document = run("explain", str(policies), "GET", "/r")
    assert (len(document["other_routes"]), document["has_more_routes"]) == (10, True)
    document = run("explain", str(policies), "GET", "/r", "-H", "x-n: 3")
    assert (len(document["other_routes"]), document["has_more_routes"]) == (10, False)


@pytest.mark.parametrize("arguments", [("check",), ("routes",), ("explain", "GET", "/")])
def test_problems_are_the_same_document_of_each_command(arguments: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + "routes: [{name: r, upstream: ap}]\n")
    command, *rest = arguments
    document = run(command, str(path), *rest, code=1)
    check_shape(document, ProblemsDocument)
    assert document["ok"] is False
    assert [(each["severity"], each["line"], each["path"]) for each in document["problems"]] == [
        ("error", 6, "routes.r.upstream"),
        ("warning", 4, "upstreams.app"),
        ("warning", 5, "upstreams.found"),
    ]


@pytest.mark.parametrize("arguments", [("check",), ("routes",), ("explain", "GET", "/")])
def test_a_path_that_cannot_be_read_is_a_problem(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command, *rest = arguments
    document = run(command, str(tmp_path / "nowhere"), *rest, code=1)
    check_shape(document, ProblemsDocument)
    assert document["problems"] == [
        {
            "severity": "error",
            "file": str(tmp_path / "nowhere"),
            "line": 1,
            "column": 1,
            "path": "",
            "message": "No such file or directory; name a policy file, or a directory with *.yaml files",
            "rule": None,
        }
    ]


@pytest.mark.parametrize("arguments", [("routes",), ("explain", "GET", "/")])
def test_policies_that_cannot_be_built_are_a_problem(arguments: tuple[str, ...], tmp_path: Path) -> None:
    from sidecar.control.compiler import CompileError
    from sidecar.core.spec import Problem

    path = tmp_path / "p.yaml"
    path.write_text(HEAD + "routes: [{name: r, upstream: app}]\n")
    command, *rest = arguments
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise CompileError([Problem(str(path), 4, 3, "upstreams.app", "cannot be built")])

        patch.setattr("sidecar.inspect.dry.compile_policies", fail)
        document = run(command, str(path), *rest, code=1)
        text = CliRunner().invoke(main, [command, str(path), *rest])
    check_shape(document, ProblemsDocument)
    assert document["problems"][0]["message"] == "cannot be built"
    assert (text.exit_code, text.stdout, text.stderr) == (1, "", f"{path}:4:3: upstreams.app: cannot be built\n")


def test_warnings_are_in_the_document_of_check(policies: Path) -> None:
    policies.write_text(policies.read_text() + "policies: {b: {}}\n")
    document = run("check", str(policies))
    check_shape(document, ProblemsDocument)
    assert (document["ok"], [each["severity"] for each in document["problems"]]) == (True, ["warning"])


def test_words_of_the_format_are_not_masked(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "route")
    text = policies.read_text().replace("app.example", "'${WORD}.example'").replace("x.example", "'x.${WORD}'")
    policies.write_text(text)
    check_shape(run("routes", str(policies)), RoutesDocument)
    check_shape(run("explain", str(policies), "GET", "/c"), ExplainDocument)


def test_every_shape_is_in_the_reference(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SHAPES` has every class that is part of a document, and no other."""
    seen: set[Any] = set()
    check_shape(run("routes", str(policies)), RoutesDocument, seen)
    check_shape(run("routes", TRANSCODING), RoutesDocument, seen)
    check_shape(run("check", str(policies.with_name("nowhere")), code=1), ProblemsDocument, seen)
    check_shape(run("explain", AGGREGATION, "GET", "/profile/7"), ExplainDocument, seen)
    check_shape(run("lint", str(policies)), LintDocument, seen)
    shop = Path(TRANSCODING).parent / "shop"
    check_shape(run("lint", "--chain", str(shop / "orders.yaml"), str(shop / "payments.yaml")), LintDocument, seen)
    other = policies.with_name("other.yaml")
    other.write_text(policies.read_text().replace("max: 9", "max: 10"))
    check_shape(run("diff", str(policies), str(other)), DiffDocument, seen)
    route = "timeout: {request: 9s, attempt: 3s}"
    replayed, log = policies.with_name("replayed.yaml"), policies.with_name("access.jsonl")
    replayed.write_text(ROUTED % ("", f", {route}"))
    log.write_bytes(b"".join(logged(route_policies(route), Truth(), traffic(600, 50.0), 1)[1]))
    check_shape(run("replay", str(replayed), str(replayed), "--log", str(log)), ReplayDocument, seen)
    check_shape(run("recommend", str(replayed), "--log", str(log)), RecommendDocument, seen)
    monkeypatch.chdir(GOLDEN)
    check_shape(run("explain", POLICIES, "GET", "/orders/17"), ExplainDocument, seen)
    check_shape(run("explain", POLICIES, "GET", "/orders/a%2Fb"), ExplainDocument, seen)
    assert {shape.__name__ for shape in seen} == {shape.__name__ for shape in SHAPES}
