"""Tests of the grammar beside llhttp, with generated and mutated messages: both read accepted messages alike.

If two parsers in a row disagree on the end of a message, a request can be smuggled past the first one.  For every
message that both accept, method, target and content must be the same, and so must the bytes after it.  A message that
only one accepts must have a reason that is listed here:

- A message that the sidecar accepts and llhttp refuses (`LOOSER`) is valid by the RFC and unambiguous.
- A message that llhttp accepts and the sidecar refuses (`STRICTER`) is never forwarded, so no parser can disagree.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire import messages, oracle
from tests.wire.answers import answer
from tests.wire.reader import Conversation, Request, read

LOOSER = {
    "Invalid method encountered": "llhttp knows a closed list of methods; RFC 9110 9.1 lets a method be any token",
    "Expected space after method": "the same, where the method begins like a known one",
    "Invalid HTTP version": "RFC 9110 2.5: a higher minor version is taken for the highest that we know",
    "Request has invalid `Transfer-Encoding`": "llhttp takes no tab behind `chunked`; RFC 9112 5 allows OWS",
    "Invalid character in chunk extensions name": "RFC 9112 7.1.1 allows white space around `;` and `=`",
    "Invalid character in chunk size": "the same, before the first `;`",
    "Content-Length can't be present with Transfer-Encoding": "in a trailer, where it says nothing and is dropped",
    "Transfer-Encoding can't be present with Content-Length": "the same",
    "Content-Length already present": "the same",
}
STRICTER = {
    "the request line is not": "llhttp takes doubled spaces, a CR before the method, and HTTP/0.9",
    "the target is neither": "llhttp takes `?` and `*x` for a target",
    "the target's authority": "llhttp takes an absolute target without a host",
    "the target `*`": "for any method",
    "Host is missing": "RFC 9112 3.2: 400",
    "Host is not": "RFC 9112 3.2: 400",
    "there is more than one Host": "RFC 9112 3.2: 400",
    "the only transfer coding": "llhttp takes `gzip, chunked`; we could not read what we forward",
    "the only expectation": "RFC 9110 10.1.1: 417",
    "only HTTP/1.1": "llhttp takes 0.9 and 2.0 by name",
    "CONNECT": "not served",
    "a chunk size line": "llhttp takes `;;`, 16 digits and endless extensions",
    "Transfer-Encoding in an HTTP/1.0": "RFC 9112 6.1: faulty framing",
    "a header value": "llhttp takes DEL and the like in some places",
    "a line ends": "llhttp skips a bare CR or LF before the method",
}
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
often = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW)


def plain(request: Request) -> tuple[bytes, bytes, bytes]:
    return request.method, request.target, request.body


def assert_agreement(data: bytes, ours: Conversation, theirs: oracle.Reading) -> None:
    both = list(zip(ours.requests, theirs.messages, strict=False))
    for our, their in both:
        assert (our.method, our.body) == (their.method, their.body), data
        if their.target.startswith(b"/") and b"." not in their.target and b"%2" not in their.target:
            assert our.target == their.target
    if len(ours.requests) > len(both):
        assert any(reason in theirs.error for reason in LOOSER), (data, theirs.error)
    elif len(theirs.messages) > len(both):
        assert ours.reason.startswith(tuple(STRICTER)), (data, ours)


@often
@given(messages.conversations())
def test_valid_requests_are_read_as_they_were_meant(
    conversation: tuple[bytes, list[tuple[bytes, bytes, bytes]]],
) -> None:
    data, meant = conversation
    ours = read(data)
    assert [plain(request) for request in ours.requests] == meant
    assert (ours.status, ours.rest, ours.is_open) == (None, b"", False)
    assert_agreement(data, ours, oracle.read(data))


@often
@given(st.data())
def test_what_both_take_they_read_alike_and_the_same_in_any_pieces(data: st.DataObject) -> None:
    whole, _ = data.draw(messages.conversations())
    if data.draw(st.integers(0, 3)):
        whole = data.draw(messages.mutated(whole))
    at_once, in_pieces = read(whole), read(data.draw(messages.cut(whole)))
    assert_agreement(whole, at_once, oracle.read(whole))
    assert in_pieces.requests == at_once.requests
    assert in_pieces.status == at_once.status


@often
@given(messages.responses())
def test_valid_responses_are_read_as_they_were_meant(response: tuple[bytes, tuple[int, bytes]]) -> None:
    data, meant = response
    ours = answer(data)
    assert (ours.status, bytes(ours.body), ours.is_whole) == (*meant, True)
    theirs, error = oracle.read_response(data)
    if b"\t\r\n" not in data:  # as above: llhttp refuses a tab after `chunked`
        assert (theirs, error) == ([meant], "")


@often
@given(st.data())
def test_responses_are_read_alike_and_the_same_in_any_pieces(data: st.DataObject) -> None:
    whole, _ = data.draw(messages.responses())
    whole = data.draw(messages.mutated(whole))
    ours = answer(whole)
    if ours.is_whole and (theirs := oracle.read_response(whole)[0]) and theirs[0].status >= 200 and ours.status != 304:
        assert (ours.status, bytes(ours.body)) == theirs[0], whole
    in_pieces = answer(data.draw(messages.cut(whole)))
    assert in_pieces.facts == ours.facts, whole


@often
@given(st.binary(max_size=300))
def test_rubbish_is_no_request(rubbish: bytes) -> None:
    ours = read(rubbish)
    assert_agreement(rubbish, ours, oracle.read(rubbish))
    assert not answer(rubbish).is_whole
