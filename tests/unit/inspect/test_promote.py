"""Tests of `sidecar promote`: the edit of the file, what stays as it is, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent, indent

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.inspect.promote import Promotion, PromotionError, promote
from tests.unit.config.policies import HEAD

UPSTREAMS = """\
upstreams:
  v1: {endpoints: ["http://127.0.0.1:9000"]}
  v2: {endpoints: ["http://127.0.0.1:9001"]}
  "v3": {endpoints: ["http://127.0.0.1:9002"]}
routes:
  - {name: first, upstream: v3, match: {path: /first}}   # stays
"""
AFTER = """\
  # The last one.
  - {name: last, upstream: v2, match: {path: /last}}
"""


def edit(route: str, arm: str | None = None, environ: dict[str, str] | None = None, *, raw: bool = False) -> Promotion:
    text = route if raw else HEAD + UPSTREAMS + indent(dedent(route), "  ") + AFTER
    source = Source("p.yaml", text.encode())
    loaded = load([source], environ or {})
    assert loaded.spec is not None, loaded.problems
    return promote([source], loaded.spec, "shop", arm, environ or {})


def edited(route: str, arm: str | None = None, environ: dict[str, str] | None = None) -> str:
    """Return the text of the route after the promotion; all other text must be as before."""
    found = edit(route, arm, environ)
    head = HEAD + UPSTREAMS
    assert found.new.startswith(head)
    assert found.new.endswith(AFTER)
    return dedent(found.new[len(head) : -len(AFTER)])


BLOCK = """\
- name: shop
  upstream: v1   # the only one
  # Timeouts of the shop.
  timeout:
    request: 3s     # as promised
    idle: 30s
  candidate:
    share: 5%
    # Agreed in June.
    when: "request.headers['x'] == 'y'"
    # Retries are new.
    retry:
      max_attempts: 2   # the first included
      on:
        - connect_failure

        # Overload too.
        - 503
    timeout:
      request: 2s
      attempt: 1s
  concurrency: {max: 10}

"""


def test_policies_of_the_candidate_take_its_place_with_their_comments() -> None:
    assert (
        edited(BLOCK)
        == """\
- name: shop
  upstream: v1   # the only one
  # Timeouts of the shop.
  timeout:
    request: 2s     # as promised
    idle: 30s
    attempt: 1s
  # Retries are new.
  retry:
    max_attempts: 2   # the first included
    on:
      - connect_failure

      # Overload too.
      - 503
  concurrency: {max: 10}

"""
    )


CASES = {
    "a value in braces": (
        "- name: shop\n  upstream: v1\n  timeout: {request: 3s, idle: 9s}  # kept\n"
        "  candidate: {share: 5%, timeout: {request: 2s, attempt: 1s}}\n",
        "- name: shop\n  upstream: v1\n  timeout: {request: 2s, idle: 9s, attempt: 1s}  # kept\n",
    ),
    "a set that was observed": (
        "- name: shop\n  upstream: v1\n  timeout: {request: 3s}\n"
        "  candidate: {mode: observe, timeout: {request: 2s}, hedge: {after: 1s}}\n",
        "- name: shop\n  upstream: v1\n  timeout: {request: 2s}\n  hedge: {after: 1s}\n",
    ),
    "new policies from braces": (
        "- name: shop\n  upstream: v1\n  candidate: {share: 5%, timeout: {request: 2s}, hedge: {after: 1s}}\n",
        "- name: shop\n  upstream: v1\n  timeout: {request: 2s}\n  hedge: {after: 1s}\n",
    ),
    "a block turned off": (
        "- name: shop\n  upstream: v1\n  retry:\n    max_attempts: 2\n  candidate:\n    share: 5%\n    retry: off\n",
        "- name: shop\n  upstream: v1\n  retry: off\n",
    ),
    "a block turned on": (
        "- name: shop\n  upstream: v1\n  retry: off\n  candidate:\n    share: 5%\n    retry:\n      max_attempts: 2\n",
        "- name: shop\n  upstream: v1\n  retry:\n    max_attempts: 2\n",
    ),
    "a list replaced whole": (
        "- name: shop\n  upstream: v1\n  retry: {on: [reset]}\n"
        "  candidate:\n    share: 5%\n    retry:\n      on:\n      - 5xx\n      - reset\n",
        "- name: shop\n  upstream: v1\n  retry: {on: [5xx, reset]}\n",
    ),
    "an entry in braces from a block": (
        "- name: shop\n  upstream: v1\n  retry: {on: [reset]}\n"
        "  candidate:\n    share: 5%\n    retry:\n      backoff:\n        base: 1s\n        max: 2s\n",
        "- name: shop\n  upstream: v1\n  retry: {on: [reset], backoff: {base: 1s, max: 2s}}\n",
    ),
    "the whole route in braces": (
        "- {name: shop, upstream: v1, candidate: {share: 5%, timeout: {request: 2s}}, hedge: {after: 1s}}\n",
        "- {name: shop, upstream: v1, timeout: {request: 2s}, hedge: {after: 1s}}\n",
    ),
    "only merged values in braces": (
        "- {candidate: {share: 5%, hedge: {after: 2s}}, name: shop, upstream: v1, hedge: {after: 1s}}\n",
        "- {name: shop, upstream: v1, hedge: {after: 2s}}\n",
    ),
    "a candidate at the end in braces": (
        "- {name: shop, upstream: v1, hedge: {after: 1s}, candidate: {share: 5%, hedge: {after: 2s}}}\n",
        "- {name: shop, upstream: v1, hedge: {after: 2s}}\n",
    ),
    "a split": (
        "- name: shop\n  upstream: {split: {v1: 95%, v2: 5%}, sticky: {header: x-user}}  # since June\n",
        "- name: shop\n  upstream: v2  # since June\n",
    ),
    "a split of several lines": (
        '- name: shop\n  upstream:\n    split:\n      v1: 95%\n      "v3": 5%\n    ramp: {to: 100%, over: 30m}\n'
        "  hedge: {after: 1s}\n",
        '- name: shop\n  upstream: "v3"\n  hedge: {after: 1s}\n',
    ),
    "a variable": (
        "- name: shop\n  upstream: v1\n  timeout: {request: 3s}\n"
        "  candidate: {share: 5%, timeout: {request: '${TIME}'}}\n",
        "- name: shop\n  upstream: v1\n  timeout: {request: '${TIME}'}\n",
    ),
    "parts of an answer": (
        "- name: shop\n  aggregate: {parts: {a: {upstream: v1, path: /a}}}\n"
        "  candidate: {share: 5%, aggregate: {parts: {a: {upstream: v2}, b: {route: last, path: /last}}}}\n",
        "- name: shop\n  aggregate: {parts: {a: {upstream: v2, path: /a}, b: {route: last, path: /last}}}\n",
    ),
    "a policy of the upstream and a bundle stays below": (
        "- name: shop\n  upstream: v1\n  candidate:\n    share: 5%\n    criticality: sheddable\n",
        "- name: shop\n  upstream: v1\n  criticality: sheddable\n",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_changes_is_edited(name: str) -> None:
    before, after = CASES[name]
    assert edited(before, environ={"TIME": "2s"}) == after


def test_an_arm_of_several_is_named() -> None:
    route = "- name: shop\n  upstream: {split: {v1: 90%, v2: 5%, v3: 5%}}\n"
    with pytest.raises(PromotionError, match="several candidates; name one with --arm: v1, v2, v3"):
        edit(route)
    assert edited(route, "v3") == "- name: shop\n  upstream: v3\n"
    assert edited(route, "v1") == "- name: shop\n  upstream: v1\n"
    with pytest.raises(PromotionError, match="has no arm `v9`"):
        edit(route, "v9")


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("- name: shop\n  upstream: v1\n", "has neither a split nor a candidate"),
        ("- candidate: {share: 5%, hedge: {after: 2s}}\n  name: shop\n  upstream: v1\n", "on the line of `-`"),
        (
            "- name: shop\n  upstream: v1\n  retry: {max_attempts: 2}\n  candidate:\n    share: 5%\n    retry:\n"
            "      on:\n      - 5xx  # all\n      - reset\n",
            "a comment has no place within braces",
        ),
        (
            "- name: shop\n  upstream: v1\n  hedge: &h {after: 1s}\n  retry: {max_attempts: 2}\n"
            "  candidate: {share: 5%, hedge: *h}\n",
            "an alias has to be written out",
        ),
        (
            "- name: shop\n  upstream: v1\n  candidate: {share: 5%, ramp: {to: 9%, over: &t 1s}}\n"
            "  hedge: {after: *t}\n",
            "the result has a problem",
        ),
    ],
)
def test_what_cannot_be_edited_is_refused(route: str, says: str) -> None:
    with pytest.raises(PromotionError, match=says):
        edit(route)


def test_line_breaks_a_byte_order_mark_and_a_missing_last_line_break_stay() -> None:
    text = HEAD + "upstreams: {v1: {endpoints: ['http://127.0.0.1:9000']}}\nroutes:\n- name: shop\n  upstream: v1\n"
    text = ("\ufeff" + text + "  candidate: {share: 5%, hedge: {after: 1s}}").replace("\n", "\r\n")
    found = edit(text, raw=True)
    assert found.has_mark
    assert found.new == text[1:].replace("candidate: {share: 5%, hedge: {after: 1s}}", "hedge: {after: 1s}")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["promote", *args])


def test_the_command_shows_the_change_and_writes_the_file(tmp_path: Path) -> None:
    other, path, link = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yml"
    other.write_text(HEAD)
    text = UPSTREAMS + "  - {name: shop, upstream: {split: {v1: 95%, v2: 5%}}}\n"
    path.write_text(text)
    path.chmod(0o640)
    shown = run("--dry-run", str(tmp_path), "shop")
    assert shown.exit_code == 0
    assert shown.output.splitlines()[-2:] == [
        "-  - {name: shop, upstream: {split: {v1: 95%, v2: 5%}}}",
        "+  - {name: shop, upstream: v2}",
    ]
    assert path.read_text() == text
    done = run(str(tmp_path), "shop")
    assert (done.exit_code, done.output) == (0, f"{path}: route `shop` is now `v2`\n")
    assert path.read_text() == text.replace("{split: {v1: 95%, v2: 5%}}", "v2")
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a.yaml", "b.yaml"]
    assert not link.exists()


def test_the_command_follows_a_link_and_names_a_wrong_route(tmp_path: Path) -> None:
    path, link = tmp_path / "b.yaml", tmp_path / "link.yaml"
    path.write_text(HEAD + UPSTREAMS + "  - {name: shop, upstream: {split: {v1: 95%, v2: 5%}}}\n")
    link.symlink_to(path)
    assert run(str(link), "shp").output == "sidecar promote: ROUTE: there is no route `shp`; did you mean `shop`?\n"
    assert run(str(link), "shop").exit_code == 0
    assert link.is_symlink()
    assert "upstream: v2}" in path.read_text()
    again = run(str(link), "shop")
    assert again.exit_code == 1
    assert "routes.shop: has neither a split nor a candidate" in again.output


def test_the_files_of_a_candidate_take_the_place_of_the_others(tmp_path: Path) -> None:
    first, second, extra = tmp_path / "a.yaml", tmp_path / "candidate" / "a.yaml", tmp_path / "candidate" / "c.yaml"
    second.parent.mkdir()
    route = "  - {name: shop, upstream: v1%s}\n"
    first.write_text(HEAD + UPSTREAMS + route % "")
    (tmp_path / "b.yaml").write_text("candidate: {share: 5%}\n")
    (tmp_path / "a.test.yaml").write_text("")
    second.write_text(HEAD + UPSTREAMS + route % ", use: [careful]")
    extra.write_text("policies: {careful: {timeout: {request: 1s}}}\n")
    assert "leave the route out to promote all of it" in run(str(tmp_path), "shop").output
    shown = run("--dry-run", str(tmp_path))
    assert shown.exit_code == 0
    assert "+  - {name: shop, upstream: v1, use: [careful]}\n" in shown.output
    assert f"removed: {tmp_path / 'b.yaml'}\n" in shown.output
    assert second.exists()
    done = run(str(tmp_path))
    assert (done.exit_code, done.output) == (0, f"{tmp_path}: has the policies of its candidate now\n")
    assert sorted(os.listdir(tmp_path)) == ["a.test.yaml", "a.yaml", "c.yaml"]
    assert "use: [careful]" in first.read_text()


def test_a_candidate_whose_files_say_something_else_elsewhere_is_not_written(tmp_path: Path) -> None:
    second = tmp_path / "candidate" / "a.yaml"
    second.parent.mkdir()
    head = HEAD + 'upstreams: {v1: {endpoints: ["http://127.0.0.1:9000"], protocol: http2}}\nroutes:\n'
    (tmp_path / "a.yaml").write_text("candidate: {share: 5%}\n" + head + "  - {name: shop, upstream: v1}\n")
    grpc = "  - {name: shop, upstream: v1, translate: {grpc: {descriptors: shop.binpb, services: [shop.Orders]}}}\n"
    descriptors = Path("policies/proto/shop.binpb")
    (second.parent / "shop.binpb").write_bytes(descriptors.read_bytes())
    second.write_text(head + grpc)
    found = run(str(tmp_path))
    assert found.exit_code == 1
    assert "the files of the candidate cannot take this place" in found.output
    assert second.exists()


def test_a_directory_without_a_candidate_is_not_promoted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + UPSTREAMS + "  - {name: shop, upstream: v1}\n")
    assert "the directory has no candidate" in run(str(tmp_path)).output
