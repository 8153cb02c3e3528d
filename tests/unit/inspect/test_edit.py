"""Tests of edits of one value in the text of a policy file."""

from __future__ import annotations

import pytest

from sidecar.inspect.edit import put

TEXT = """\
upstreams:
  app:
    endpoints: ["http://app:80"]  # ours
    retry_budget: {ratio: 50%}
routes:
  - name: orders
    upstream: app
    timeout:
      attempt: 1s  # too long?
    retry: {}
  - {name: pages, upstream: app, timeout: {request: 3s}}
"""


def changed(kind: str, name: str, path: str, value: str, text: str = TEXT) -> list[tuple[str, str]]:
    """Return the lines that differ, as pairs of old and new; an empty old one for a new line."""
    old, new = text.splitlines(), put(text, kind, name, tuple(path.split(".")), value).splitlines()  # type: ignore[arg-type]
    if len(new) > len(old):
        (added,) = [n for n, line in enumerate(new) if line not in old]
        assert new[:added] + new[added + 1 :] == old
        return [("", new[added])]
    return [(before, after) for before, after in zip(old, new, strict=True) if before != after]


def test_a_value_is_replaced_and_its_comment_stays() -> None:
    assert changed("routes", "orders", "timeout.attempt", "250ms") == [
        ("      attempt: 1s  # too long?", "      attempt: 250ms  # too long?")
    ]
    assert changed("upstreams", "app", "retry_budget.ratio", "20%") == [
        ("    retry_budget: {ratio: 50%}", "    retry_budget: {ratio: 20%}")
    ]


@pytest.mark.parametrize(
    ("name", "path", "after"),
    [
        ("orders", "timeout.request", "      request: 9s"),
        ("orders", "hedge.after", "    hedge: {after: 9s}"),
        ("orders", "retry.backoff.max", "    retry: {backoff: {max: 9s}}"),
        ("pages", "timeout.attempt", "  - {name: pages, upstream: app, timeout: {request: 3s, attempt: 9s}}"),
        ("pages", "hedge.after", "  - {name: pages, upstream: app, timeout: {request: 3s}, hedge: {after: 9s}}"),
    ],
)
def test_a_missing_value_is_added(name: str, path: str, after: str) -> None:
    ((_, found),) = changed("routes", name, path, "9s")
    assert found == after


def test_a_file_without_a_last_line_break() -> None:
    text = "upstreams:\n  app:\n    endpoints: [x]"
    assert put(text, "upstreams", "app", ("connect_timeout",), "1s") == f"{text}\n    connect_timeout: 1s\n"


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("other", "timeout.attempt", "its name is not written in the file; edit it by hand"),
        ("orders", "upstream.x", "`upstream` is no mapping; edit it by hand"),
        ("orders", "timeout", "`timeout` is not a plain value; edit it by hand"),
    ],
)
def test_what_cannot_be_edited(name: str, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        put(TEXT, "routes", name, tuple(path.split(".")), "1s")
