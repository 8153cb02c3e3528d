"""A message's body, taken whole and opened as a document; or why that cannot be."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Failure, Outcome
from sidecar.transform import coding
from sidecar.transform.collect import collect
from sidecar.transform.forms import from_form
from sidecar.transform.jsonbody import Document, Invalid, parse
from sidecar.transform.validators import coding_of

Kind = Literal["invalid", "too_large", "coding"]


class Problem(NamedTuple):
    """Why a body cannot be read."""

    kind: Kind
    detail: str
    """Completes "The body ..."."""


class Taken(NamedTuple):
    """A body, as far as it could be read."""

    document: Document | None = None
    data: bytes = b""
    """As it came."""
    coding: bytes = b""
    problem: Problem | None = None
    failure: Failure | None = None
    """What broke it off."""


NOTHING: Final = Taken()
"""Of a message without a body."""


def read(message: Exchange | Outcome, limit: int, *, form: bool = False) -> Taken:
    """The body of a message that does not stream, as a document."""
    data = message.body
    if not data:
        return NOTHING
    encoding = coding_of(message)
    if encoding and not coding.is_known(encoding):
        return _unknown(encoding)
    if len(data) > limit:
        return Taken(data=data, problem=Problem("too_large", f"is larger than {limit} bytes"))
    try:
        plain = coding.decode(data, encoding, limit) if encoding else data
        return Taken(from_form(plain) if form else parse(plain), data, encoding)
    except coding.TooLarge as error:
        return Taken(data=data, problem=Problem("too_large", str(error)))
    except Invalid as error:
        return Taken(data=data, problem=Problem("invalid", str(error)))


async def take(message: Exchange | Outcome, limit: int, *, form: bool = False) -> Taken:
    """The same for one that may: its body is whole afterwards, unless it was too large or broke off; then it streams
    on."""
    if message.stream is not None:
        encoding = coding_of(message)
        if not coding.is_known(encoding):
            return _unknown(encoding)
        got = await collect(message.stream, limit)
        if isinstance(got, Failure):
            return Taken(failure=got)
        if isinstance(got, Body):
            message.stream = got
            return Taken(problem=Problem("too_large", f"is larger than {limit} bytes"))
        message.stream = None
        message.body = got
    return read(message, limit, form=form)


def _unknown(encoding: bytes) -> Taken:
    return Taken(problem=Problem("coding", f"has the content coding {encoding.decode('latin-1')[:80]}"))
