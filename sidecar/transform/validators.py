"""Corrects fields that a changed body makes wrong.

- *ETag*: a strong tag becomes weak.  Two responses with one tag are still equivalent (RFC 9110 8.8.1), and
  If-None-Match, which compares weakly, keeps working.  If-Match and If-Range no longer hold; a policy can drop the tag.
- *Digests* of the former body are removed: Content-MD5, Digest, Content-Digest and Repr-Digest (RFC 9530).
- *Ranges* refer to the body that the service sent: Accept-Ranges is removed from the response, Range and If-Range from
  the request.
- *Content-Length* of a response to HEAD is removed; in all other messages the connection writes it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

from sidecar.core.message import Message
from sidecar.transform.coding import acceptable
from sidecar.transform.headers import LineRemover, put

DIGESTS: Final = ("content-md5", "digest", "content-digest", "repr-digest")
_cut_digests: Final = LineRemover(DIGESTS)
_cut_untrue: Final = LineRemover((*DIGESTS, "accept-ranges", "content-length"), ["etag"])
_cut_ranges: Final = LineRemover(("range", "if-range"))

_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
"""Matches a quoted string; without a closing quote, all that follows."""

OnETag = Literal["weaken", "drop"]


def after_answer(message: Message, etag: OnETag = "weaken") -> None:
    """Correct a response's fields for a body that differs from the service's."""
    for tag in _cut_untrue(message):
        if etag == "weaken":
            message.add(b"etag", tag if tag.startswith(b"W/") else b"W/" + tag)


def after_request(message: Message) -> None:
    """Correct a request's fields for a body that differs from the client's."""
    _cut_digests(message)


def ask_for_whole(message: Message) -> None:
    """Change a request so that its response can be rewritten: no ranges, and only known codings."""
    _cut_ranges(message)
    accepted = message.joined(b"accept-encoding")
    if accepted is not None and (known := acceptable(accepted)) != accepted:
        put(message, b"accept-encoding", known)


def forbids_transform(message: Message) -> bool:
    """True if Cache-Control says `no-transform`, in any case and with any argument (RFC 9111 5.2)."""
    control = message.joined(b"cache-control")
    if control is None or b"no-transform" not in (control := control.lower()):
        return False
    members = _QUOTED.sub(b"", control).split(b",")
    return any(member.partition(b"=")[0].strip(b" \t") == b"no-transform" for member in members)


@lru_cache(maxsize=256)
def is_json(content_type: bytes | None) -> bool:
    """True for a media type of JSON (RFC 8259 11, RFC 6839 3.1)."""
    kind = _media_type(content_type)
    return kind in (b"application/json", b"text/json") or kind.endswith(b"+json")


@lru_cache(maxsize=256)
def is_form(content_type: bytes | None) -> bool:
    """True for the media type of form bodies."""
    return _media_type(content_type) == b"application/x-www-form-urlencoded"


def _media_type(content_type: bytes | None) -> bytes:
    return b"" if content_type is None else content_type.partition(b";")[0].strip(b" \t").lower()


def coding_of(message: Message) -> bytes:
    """Return the Content-Encoding in lower case; empty if there is none."""
    return (message.joined(b"content-encoding") or b"").lower()
