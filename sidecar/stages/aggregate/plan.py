"""Plan of an `aggregate` block: which part needs which, in what order they run, and what they take at most.

All functions are pure.  `find_problems` must find nothing before the others are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any, Final, NamedTuple

from sidecar.stages.aggregate.spec import AnswerSpec, PartSpec, Spec
from sidecar.stages.aggregate.texts import Reference, references, references_in, split_target

MOST_DEPTH: Final = 3
"""Most levels of aggregates: one whose parts are aggregates whose parts are aggregates."""

Place = tuple[str, ...]
"""Keys that lead to a value within the block."""


def texts_of(part: PartSpec) -> Iterator[tuple[Place, list[Reference]]]:
    """Yield the references of a part, with their places within the part."""
    if part.each is not None:
        yield ("each", "of"), references(part.each.of)
    yield ("path",), references(part.path)
    for name, text in part.headers.items():
        yield ("headers", name), references(text)
    yield ("json",), list(references_in(part.json_))


def needs_of(part: PartSpec) -> dict[str, None]:
    """Return the names of the parts whose answers a part needs, in the order of their use."""
    return dict.fromkeys(each.part for _, found in texts_of(part) for each in found if each.part)


def find_problems(spec: Spec) -> Iterator[tuple[Place, str]]:
    """Yield errors across parts: unknown names, cycles, items without a list."""
    known = list(spec.parts)
    for name, part in spec.parts.items():
        batches = part.each is not None and part.each.batch is not None
        for place, found in texts_of(part):
            at = ("parts", name, *place)
            for reference in found:
                if reference.part and reference.part not in spec.parts:
                    yield at, f"names {{{reference.text}}}, but there is no part `{reference.part}`; {_known(known)}"
                elif reference.part == name:
                    yield at, f"names {{{reference.text}}}, which is its own answer; name another part"
                elif not reference.part and part.each is None:
                    yield at, f"names {{{reference.text}}}, but the part has no list; add `each`"
                elif not reference.part and reference.is_batch != batches and place != ("each", "of"):
                    yield (
                        at,
                        (
                            f"names {{{reference.text}}}, but a request has several items; write {{items}}"
                            if batches
                            else "names {items}, but each item has its own request; write {item}, or add each.batch"
                        ),
                    )
        if part.each is not None and not any(
            not each.part for place, found in texts_of(part) if place[0] != "each" for each in found
        ):
            what = "{items}" if batches else "{item}"
            yield ("parts", name, "path"), f"does not name {what}, so all requests of `each` would be the same; add it"
    if isinstance(spec.answer, AnswerSpec):
        for reference in references_in(spec.answer.json_):
            if not reference.part:
                yield ("answer", "json"), f"names {{{reference.text}}}, which only a part with `each` has"
            elif reference.part not in spec.parts:
                text = f"names {{{reference.text}}}, but there is no part `{reference.part}`; {_known(known)}"
                yield ("answer", "json"), text
    if cycle := find_cycle({name: list(needs_of(part)) for name, part in spec.parts.items()}):
        yield ("parts", cycle[0]), f"needs itself: {' > '.join([*cycle, cycle[0]])}; break this circle"
    yield from _find_stream_problems(spec)
    if spec.answer == "merged":
        for name, part in spec.parts.items():
            if part.each is not None:
                yield ("parts", name, "each"), "is a list, which cannot be merged; make the answer nested"
            for number, step in enumerate(part.otherwise):
                if step.stale is None and step.json_ is not None and not isinstance(step.json_, dict):
                    yield (
                        ("parts", name, "otherwise", str(number)),
                        "is no object, and cannot be merged; write an object or null",
                    )


def _find_stream_problems(spec: Spec) -> Iterator[tuple[Place, str]]:
    """Yield errors of parts that stream."""
    streamed = [name for name, part in spec.parts.items() if part.stream]
    for name in streamed[1:]:
        yield ("parts", name, "stream"), f"streams as {streamed[0]} does, but one part can; take it out of the others"
    for name in streamed[:1]:
        at = ("parts", name, "stream")
        users = [other for other, part in spec.parts.items() if name in needs_of(part)]
        if spec.parts[name].each is not None:
            yield at, "is on a part with `each`, whose answers are joined; leave one of them out"
        if users:
            yield at, f"is on a part whose answer the part {users[0]} needs, so it must be held; take `stream` out"
        if spec.answer == "merged":
            yield at, "is on a part whose members are merged, so it must be held; make the answer nested"
        elif isinstance(spec.answer, AnswerSpec) and _places_of(name, spec.answer.json_) != [f"{{parts.{name}}}"]:
            text = f'must have the part {name}, which streams, once and as a whole value: "{{parts.{name}}}"'
            yield ("answer", "json"), text


def _places_of(part: str, value: Any) -> list[str]:
    """Return the texts of a JSON value that name a part, once for each time they do."""
    if isinstance(value, str):
        return [value for each in references(value) if each.part == part]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _places_of(part, each)]


def _known(names: list[str]) -> str:
    return f"known are {', '.join(names)}"


def find_cycle(needs: Mapping[str, list[str]]) -> list[str]:
    """Return names that need each other in a circle, the first in the order of `needs`; empty without one."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done or name not in needs:
            return []
        for inner in needs[name]:
            if found := walk(inner, [*path, name]):
                return found
        done.add(name)
        return []

    for name in needs:
        if found := walk(name, []):
            return found
    return []


def levels(spec: Spec) -> list[list[str]]:
    """Return the parts that can run at the same time, in the order in which they start."""
    found: list[list[str]] = []
    left = {name: set(needs_of(part)) & spec.parts.keys() for name, part in spec.parts.items()}
    while left:
        ready = [name for name, needs in left.items() if not needs & left.keys()]
        if not ready:  # a cycle, which is reported
            return found
        found.append(ready)
        for name in ready:
            del left[name]
    return found


class Cost(NamedTuple):
    """Worst case of a request."""

    seconds: float
    """Longest time; infinite without a limit."""
    calls: int
    """Most requests to upstreams, with all retries and hedges."""
    requests: int
    """Most requests of parts, without retries and hedges."""


def worst_case(spec: Spec, cost_of: Callable[[PartSpec], Cost]) -> Cost:
    """Return the worst case of all parts together; `cost_of` returns that of one request of a part."""
    ends: dict[str, float] = {}
    calls = requests = 0
    for level in levels(spec):
        for name in level:
            part = spec.parts[name]
            one = cost_of(part)
            count = times = 1
            if part.each is not None:
                count = ceil(part.each.max / (part.each.batch or 1))
                times = ceil(count / part.each.at_once)
            seconds = min(one.seconds * times, part.timeout if part.timeout is not None else one.seconds * times)
            ends[name] = max((ends[need] for need in needs_of(part)), default=0.0) + seconds
            calls += one.calls * count
            requests += max(1, one.requests) * count
    return Cost(max(ends.values(), default=0.0), calls, requests)


def path_of(part: PartSpec) -> str:
    """Return the path of a part without its query."""
    return split_target(part.path)[0]
