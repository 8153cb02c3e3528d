"""Fields that a changed body makes untrue.

- *ETag*: the representation is another one, byte for byte, so a strong validator becomes weak: two answers with one
  tag still mean the same (RFC 9110 8.8.1), and conditional requests keep working, since If-None-Match compares weakly.
  If-Match and If-Range compare strongly and no longer hold; where that matters, the tag can be dropped.
- *Digests* of what is no more: Content-MD5, Digest, Content-Digest and Repr-Digest (RFC 9530).
- *Ranges* are of the representation that is sent, and nobody can cut ours: Accept-Ranges goes from the answer, Range
  and If-Range from the request.
- *Content-Length* of an answer to HEAD is that of a body that nobody has made.  All others are written by the edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from sidecar.core.message import Message
from sidecar.transform.coding import acceptable
from sidecar.transform.headers import Cutter, put

DIGESTS: Final = ("content-md5", "digest", "content-digest", "repr-digest")
_cut_digests: Final = Cutter(DIGESTS)
_cut_untrue: Final = Cutter((*DIGESTS, "accept-ranges", "content-length"), ["etag"])
_cut_ranges: Final = Cutter(("range", "if-range"))

OnETag = Literal["weaken", "drop"]


def after_answer(message: Message, etag: OnETag = "weaken") -> None:
    """Put an answer's fields right for a body that is no longer the service's."""
    for tag in _cut_untrue(message):
        if etag == "weaken":
            message.add(b"etag", tag if tag.startswith(b"W/") else b"W/" + tag)


def after_request(message: Message) -> None:
    """Put a request's fields right for a body that is no longer the client's."""
    _cut_digests(message)


def ask_for_whole(message: Message) -> None:
    """Ask for an answer that can be rewritten: all of it, and in no coding that could not be undone."""
    _cut_ranges(message)
    accepted = message.joined(b"accept-encoding")
    if accepted is not None and (known := acceptable(accepted)) != accepted:
        put(message, b"accept-encoding", known)


@lru_cache(maxsize=256)
def is_json(content_type: bytes | None) -> bool:
    """Is it a media type of JSON (RFC 8259 11, RFC 6839 3.1)?"""
    kind = _media_type(content_type)
    return kind in (b"application/json", b"text/json") or kind.endswith(b"+json")


@lru_cache(maxsize=256)
def is_form(content_type: bytes | None) -> bool:
    return _media_type(content_type) == b"application/x-www-form-urlencoded"


def _media_type(content_type: bytes | None) -> bytes:
    return b"" if content_type is None else content_type.partition(b";")[0].strip(b" \t").lower()


def coding_of(message: Message) -> bytes:
    """Its Content-Encoding in lower case; empty where there is none."""
    return (message.joined(b"content-encoding") or b"").lower()
