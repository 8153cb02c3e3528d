"""Operations on JSON documents by JSON Pointers (RFC 6901).

1. `/items/0/price` is the price of the first item, `/items/-` the place after the last item.  Beyond RFC 6901, `*` is
   each item of a list or member of an object: `/items/*/price`.  A key `*` is written `~2`, as `/` is `~1` and `~` is
   `~0`.
2. Removing, renaming, moving and copying ignore absent members.
3. `set` and `default` create missing objects on the way.  If a value without members is in the way, or a list is too
   short, they raise `InvalidBody`, since a value that is silently not set is worse than an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.transform.jsonbody import Document, InvalidBody, parse_member, to_raw

EACH: Final = object()
"""Step for `*`: each item or member."""
END: Final = "-"
"""Step to the place after the last item of a list."""
MAX_DEPTH: Final = 32
"""Steps of one pointer, at most."""
MAX_PLACES: Final = 100_000
"""Places to which one pointer may lead, at most: enough for a large list, and a bound for stars below stars."""

Steps = tuple[Any, ...]
"""Steps of a pointer: keys and `EACH`."""
Operation = Callable[[Document, Exchange, "Outcome | None"], None]
"""Function that changes a document; its templates read the request and the outcome."""
Place = tuple[Any, Any, tuple[Any, ...]]
"""Container, key or index in it, and the keys that the stars on the way matched."""

_ESCAPES: Final = {"~0": "~", "~1": "/", "~2": "*"}


def parse_pointer(text: str) -> Steps:
    """Return the steps of a pointer.  Raises `ValueError` with a remedy."""
    if text and not text.startswith("/"):
        raise ValueError(f'is not a JSON Pointer: it begins with a slash, write "/{text.replace(".", "/")}"')
    if re.search(r"~(?![012])", text):
        raise ValueError("has a `~` that starts no escape; write ~0 for a tilde, ~1 for a slash and ~2 for a star")
    words = text.split("/")[1:]
    if len(words) > MAX_DEPTH:
        raise ValueError(f"has {len(words)} steps; at most {MAX_DEPTH}")
    return tuple(EACH if word == "*" else re.sub("~[012]", lambda found: _ESCAPES[found[0]], word) for word in words)


def _index(items: list[Any], step: str, *, grow: bool) -> int:
    """Return the index of a step in a list; -1 if there is none."""
    if step == END:
        return len(items) if grow else -1
    if not (step.isascii() and step.isdigit()) or (step[0] == "0" and step != "0") or len(step) > 9:
        return -1
    index = int(step)
    return index if index < len(items) + grow else -1


def _has(container: Any, key: Any) -> bool:
    return key < len(container) if container.__class__ is list else key in container


def places(document: Document, steps: Steps, *, make: bool = False) -> list[Place]:
    """Return the places to which a pointer leads.  With `make`, missing objects on the way are created, but
    not the members at the places.
    """
    container: Any = document.box
    key: Any = 0
    for number, step in enumerate(steps):  # most pointers lead from object to object
        inner = parse_member(container, key)
        if step is EACH or inner.__class__ is not dict:
            return _spread(container, key, steps, number, make=make)
        if step not in inner:
            if not make:
                return []
            if number + 1 < len(steps):
                inner[step] = {}
        container, key = inner, step
    return [(container, key, ())]


def _spread(container: Any, key: Any, steps: Steps, start: int, *, make: bool) -> list[Place]:
    """Return the places to which the steps from `start` on lead, over lists and stars."""
    found: list[Place] = [(container, key, ())]
    for number, step in enumerate(steps[start:], start):
        following: list[Place] = []
        for container, key, stars in found:
            if make and not _has(container, key):
                _put(container, key, {})
            inner = parse_member(container, key)
            kind = inner.__class__
            if step is EACH:
                if kind is dict:
                    following += [(inner, name, (*stars, name)) for name in inner]
                elif kind is list:
                    following += [(inner, index, (*stars, index)) for index in range(len(inner))]
            elif kind is dict:
                if make or step in inner:
                    following.append((inner, step, stars))
            elif kind is list:
                index = step if step.__class__ is int else _index(inner, step, grow=make)
                if index >= 0 and (make or index < len(inner)):
                    following.append((inner, index, stars))
                elif make:
                    raise InvalidBody(f"has a list where `{_spelled(steps[: number + 1])}` finds no place")
            elif make:
                raise InvalidBody(f"has no object at `{_spelled(steps[:number])}`, where something is to be set")
        if len(following) > MAX_PLACES:
            raise InvalidBody(f"has more than {MAX_PLACES} members at `{_spelled(steps[: number + 1])}`")
        found = following
    return found


def _put(container: Any, key: Any, value: Any) -> None:
    if container.__class__ is list and key == len(container):
        container.append(value)
    else:
        container[key] = value


def _delete(found: list[Place]) -> None:
    """Delete members from the last to the first, so that indexes in a list stay valid."""
    for container, key, _ in reversed(found):
        del container[key]


def _bound(steps: Steps, stars: tuple[Any, ...]) -> Steps:
    """Return steps with each star replaced by the key that it matched in another pointer."""
    given = iter(stars)
    return tuple(next(given) if step is EACH else step for step in steps)


Value = Callable[[Exchange, "Outcome | None"], Any]
"""Function that makes a new value for each place: `Raw`, or plain values that are not shared."""


def set_at(pointer: str, value: Value, *, only_missing: bool = False) -> Operation:
    """Return an operation that sets a member, or with `only_missing` gives it a default."""
    steps = parse_pointer(pointer)

    def operation(document: Document, x: Exchange, outcome: Outcome | None) -> None:
        for container, key, _ in places(document, steps, make=True):
            if not (only_missing and _has(container, key)):
                _put(container, key, value(x, outcome))

    return operation


def remove(pointer: str) -> Operation:
    """Return an operation that deletes members."""
    steps = _member(pointer, "removes")
    return lambda document, _x, _o: _delete(places(document, steps))


def rename(pointer: str, name: str) -> Operation:
    """Return an operation that renames members in their place and deletes former members with the new name."""
    steps = _member(pointer, "renames")
    if steps[-1] is EACH:
        raise ValueError("renames all members to one name; name the one to rename")

    def operation(document: Document, _x: Exchange, _o: Outcome | None) -> None:
        for container, key, _ in places(document, steps):
            if container.__class__ is not dict or key == name:
                continue
            pairs = [(name if each == key else each, value) for each, value in container.items() if each != name]
            container.clear()
            container.update(pairs)

    return operation


def move(pointer: str, to: str) -> Operation:
    """Return an operation that moves values; stars in `to` match the same keys as those in `pointer`."""
    return _transfer(pointer, to, keep=False)


def copy(pointer: str, to: str) -> Operation:
    """Return an operation that copies values; stars in `to` match the same keys as those in `pointer`."""
    return _transfer(pointer, to, keep=True)


def _transfer(pointer: str, to: str, *, keep: bool) -> Operation:
    source, target = _member(pointer, "copies" if keep else "moves"), _member(to, "writes to")
    if EACH in source and source.count(EACH) != target.count(EACH):
        raise ValueError(f"has {source.count(EACH)} stars and `{to}` has {target.count(EACH)}; give both the same")
    if target[: len(source)] == source:
        if keep or target == source or EACH in target[len(source) :]:
            raise ValueError(f"leads into itself, `{to}`; name another place")
        return _nest(source, target[len(source) :])

    def operation(document: Document, _x: Exchange, _o: Outcome | None) -> None:
        found = places(document, source)
        values = [(to_raw(container[key]), stars) for container, key, stars in found]
        if not keep:
            _delete(found)
        for value, stars in values:
            for container, key, _ in places(document, _bound(target, stars) if stars else target, make=True):
                _put(container, key, value)

    return operation


def _nest(steps: Steps, keys: Steps) -> Operation:
    """Return an operation that puts each member into new objects in its place."""

    def operation(document: Document, _x: Exchange, _o: Outcome | None) -> None:
        for container, key, _ in places(document, steps):
            value = container[key]
            for name in reversed(keys):
                value = {name: value}
            container[key] = value

    return operation


def select(pointers: Iterable[str]) -> Operation:
    """Return an operation that keeps only the members at the pointers, and the containers on the way."""
    kept = [parse_pointer(pointer) for pointer in pointers]

    def operation(document: Document, _x: Exchange, _o: Outcome | None) -> None:
        parse_member(document.box, 0)
        if not _keep(document.box, 0, kept):
            document.box[0] = {}

    return operation


def _keep(container: Any, key: Any, kept: list[Steps]) -> bool:
    """Reduce a member to the values at the steps.  Returns False if it has none of them."""
    if () in kept:
        return True
    inner = parse_member(container, key)
    if inner.__class__ is dict:
        container[key] = {name: inner[name] for name in list(inner) if _keep(inner, name, list(_below(kept, name)))}
    elif inner.__class__ is list:
        inner[:] = [inner[index] for index in range(len(inner)) if _keep(inner, index, list(_below(kept, str(index))))]
    else:
        return False
    return bool(kept)


def _below(kept: list[Steps], name: str) -> Iterator[Steps]:
    return (steps[1:] for steps in kept if steps[0] is EACH or steps[0] == name)


def wrap(pointer: str) -> Operation:
    """Return an operation that puts the document into a new object under the keys of the pointer.

    With a star, each member that it matches is put into an object of its own.
    """
    return _nest(*_around(pointer, "wraps into"))


def unwrap(pointer: str) -> Operation:
    """Return an operation that replaces the document by one of its members.

    With a star, each member that it matches is replaced.  A document or member without such a member stays.
    """
    outer, keys = _around(pointer, "unwraps")

    def operation(document: Document, _x: Exchange, _o: Outcome | None) -> None:
        for container, key, _ in places(document, outer):
            parse_member(container, key)
            for holder, name, _ in places(Document(container[key]), keys):
                container[key] = holder[name]

    return operation


def _around(pointer: str, what: str) -> tuple[Steps, Steps]:
    """Return the steps up to the last star, and those after it."""
    steps = _member(pointer, what)
    last = max((place + 1 for place, step in enumerate(steps) if step is EACH), default=0)
    if last == len(steps):
        raise ValueError(f"{what} a star; name a member after it, such as {pointer}/data")
    return steps[:last], steps[last:]


def _member(pointer: str, what: str) -> Steps:
    """Return the steps of a pointer to a member.  Raises `ValueError` for the whole document."""
    steps = parse_pointer(pointer)
    if not steps:
        raise ValueError(f"{what} the whole document; name a member, such as /data")
    return steps


def _spelled(steps: Steps) -> str:
    return "".join(f"/{'*' if step is EACH else step}" for step in steps) or "the top"
