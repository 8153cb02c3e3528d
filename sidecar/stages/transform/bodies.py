"""Bodies: loading, and the operations on them.

A body is read if an operation or a condition is for its Content-Type.  Every other body stays streamed, and so does one
that turns out to be longer than `max_body`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.template import compile_tree, names, render_tree
from sidecar.stages.transform.fields import BodySpec, RequestBodySpec
from sidecar.stages.transform.spec import Direction
from sidecar.transform import coding, pointer
from sidecar.transform.buffering import BodyProblem, BufferedBody, Kind, buffer_body, read_body
from sidecar.transform.forms import to_form
from sidecar.transform.jsonbody import Document, to_raw
from sidecar.transform.pointer import Operation
from sidecar.transform.validators import is_form, is_json
from sidecar.transform.values import DEPLOYMENT

STATUS: Final[dict[Kind, int]] = {"invalid": 400, "too_large": 413, "coding": 415}
"""Status of the refusal of a request, by the problem with its body."""


class BodyLoader:
    """Loader of the bodies of one direction, with the policy for bodies that cannot be rewritten."""

    __slots__ = ("_limit", "_passes", "_skipped")

    def __init__(self, spec: Direction, ctx: BuildContext, direction: str) -> None:
        self._limit = spec.max_body
        self._passes = frozenset(kind for kind in STATUS if getattr(spec.on_error, kind) == "pass")
        self._skipped = {
            kind: ctx.env.meter.counter(metrics.TRANSFORM_SKIPPED, route=ctx.route, direction=direction, reason=kind)
            for kind in self._passes
        }

    def may_pass(self, problem: BodyProblem) -> bool:
        """True if a message with this problem passes unchanged; such a pass is counted."""
        if problem.kind not in self._passes:
            return False
        self._skipped[problem.kind].value += 1
        return True

    def read(self, message: Exchange | Outcome) -> BufferedBody:
        """Return the body of a message that is not streamed."""
        return read_body(message, self._limit)

    def load(self, message: Exchange | Outcome, *, form: bool = False) -> Coroutine[Any, Any, BufferedBody]:
        """Return a body, after waiting until it is whole or too long; `form` reads a form."""
        return buffer_body(message, self._limit, form=form)


class BodyEdit:
    """Operations of one `body`, compiled."""

    __slots__ = ("_operations", "from_form", "make", "to_form")

    def __init__(self, spec: BodySpec, constants: dict[str, str]) -> None:
        self._operations = list(_operations(spec, constants))
        convert = spec.convert if isinstance(spec, RequestBodySpec) else None
        self.from_form = convert == "form_to_json"
        """True if a form body is read as JSON."""
        self.to_form = convert == "json_to_form"
        """True if the body is written as a form."""
        tree = spec.template if isinstance(spec, RequestBodySpec) else None
        self.make = None if tree is None else _value(tree, constants)
        """Function that makes the body of a request without one; None if the rule has no `template`."""

    def suits(self, content_type: bytes | None) -> bool:
        """True if the operations are for bodies of this type."""
        return is_form(content_type) if self.from_form else is_json(content_type)

    def operate(self, document: Document, x: Exchange, outcome: Outcome | None) -> None:
        """Apply the operations to a document.  Raises `InvalidBody` if one does not fit it."""
        for operation in self._operations:
            operation(document, x, outcome)


def rewrite_body(taken: BufferedBody, edits: Sequence[BodyEdit], x: Exchange, outcome: Outcome | None = None) -> bytes:
    """Return the octets of a body after all edits; the received ones if nothing has changed.

    Raises `InvalidBody` if an edit does not fit the body.
    """
    document = taken.document
    assert document is not None
    for edit in edits:
        edit.operate(document, x, outcome)
    as_form = outcome is None and any(edit.to_form for edit in edits)
    data = to_form(document) if as_form else document.encoded()
    if data == document.text:
        return taken.data  # with its byte order mark and its own compression
    return coding.encode(data, taken.coding) if taken.coding else data


def _operations(spec: BodySpec, constants: dict[str, str]) -> Sequence[Operation]:
    """Compile the operations of a `body`, in the order in which they apply."""
    found: list[Operation] = []
    if spec.unwrap is not None:
        found.append(pointer.unwrap(spec.unwrap))
    if spec.select is not None:
        found.append(pointer.select(spec.select))
    found += [pointer.remove(each) for each in spec.remove]
    found += [pointer.rename(each, name) for each, name in spec.rename.items()]
    found += [pointer.move(source, target) for source, target in spec.move.items()]
    found += [pointer.copy(source, target) for source, target in spec.copy_.items()]
    for each, tree in spec.default.items():
        found.append(pointer.set_at(each, _value(tree, constants), only_missing=True))
    found += [pointer.set_at(each, _value(tree, constants)) for each, tree in spec.set.items()]
    if spec.wrap is not None:
        found.append(pointer.wrap(spec.wrap))
    return found


def _value(tree: Any, constants: dict[str, str]) -> Callable[[Exchange, Outcome | None], Any]:
    """Return a function that makes a policy's value.  A value without templates of the request is made once."""
    compiled = compile_tree(tree, constants)
    if DEPLOYMENT.issuperset(_names(tree)):
        raw = to_raw(render_tree(compiled, Exchange(b"GET", b"/")))
        return lambda _x, _o: raw
    return lambda x, outcome: render_tree(compiled, x, outcome)


def _names(tree: Any) -> set[str]:
    """Return the names in all templates of a JSON value."""
    if isinstance(tree, str):
        return set(names(tree))
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return {name for each in inner for name in _names(each)}
