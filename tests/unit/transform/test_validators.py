from __future__ import annotations

import pytest

from sidecar.core.outcome import Outcome
from sidecar.transform.validators import OnETag, after_answer, after_request, ask_for_whole, coding_of, is_form, is_json

LINES = (
    b'ETag: "a"\r\nDigest: x\r\nContent-Digest: y\r\nAccept-Ranges: bytes\r\n'
    b"X: 1\r\nContent-MD5: z\r\nContent-Length: 9\r\n"
)


@pytest.mark.parametrize(("etag", "lines"), [("weaken", b'X: 1\r\netag: W/"a"\r\n'), ("drop", b"X: 1\r\n")])
def test_what_a_changed_answer_may_no_longer_say(etag: OnETag, lines: bytes) -> None:
    outcome = Outcome(200, lines=LINES)
    after_answer(outcome, etag)
    assert outcome.lines == lines


def test_a_weak_tag_stays_weak() -> None:
    outcome = Outcome(200, lines=b'etag:W/"a"\r\n')
    after_answer(outcome)
    assert outcome.lines == b'etag: W/"a"\r\n'


def test_what_a_changed_request_may_no_longer_say() -> None:
    outcome = Outcome(200, lines=LINES)
    after_request(outcome)
    assert outcome.lines == b'ETag: "a"\r\nAccept-Ranges: bytes\r\nX: 1\r\nContent-Length: 9\r\n'


def test_an_answer_that_will_be_read_is_asked_for_whole() -> None:
    outcome = Outcome(200, lines=b"Accept-Encoding: gzip, zstd\r\nRange: bytes=0-1\r\nIf-Range: x\r\naccept: a\r\n")
    ask_for_whole(outcome)
    assert outcome.lines == b"accept: a\r\naccept-encoding: gzip\r\n"


@pytest.mark.parametrize(
    ("kind", "json", "form"),
    [
        (b"application/json", True, False),
        (b"Application/Problem+JSON; charset=utf-8", True, False),
        (b"text/json", True, False),
        (b"application/jsonp", False, False),
        (b"text/plain", False, False),
        (b"application/x-www-form-urlencoded;charset=UTF-8", False, True),
        (None, False, False),
    ],
)
def test_media_types(kind: bytes | None, json: bool, form: bool) -> None:
    assert is_json(kind) is json
    assert is_form(kind) is form


def test_the_coding_is_that_of_all_lines() -> None:
    assert coding_of(Outcome(200, lines=b"Content-Encoding: GZip\r\n")) == b"gzip"
    assert coding_of(Outcome(200, lines=b"content-encoding: gzip\r\ncontent-encoding: br\r\n")) == b"gzip, br"
    assert coding_of(Outcome(200, lines=b"")) == b""
