"""Compiler of conditions: turns a tree into closures, and checks every type that is known at load."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.pattern import MAX_INPUT, compile_search
from sidecar.expression.facts import (
    BOOL,
    DOUBLE,
    DYN,
    ERROR,
    FIELDS,
    INT,
    LIST,
    MAP,
    NULL,
    PATH,
    STRING,
    Bodies,
    Read,
    Scope,
    presence,
    reader,
)
from sidecar.expression.lexer import ExpressionError
from sidecar.expression.operators import RELATIONS, TEXT_FUNCTIONS, size
from sidecar.expression.tree import Access, Call, Expression, Items, Literal, Logic, Not, Relation

TYPES: Final = {str: STRING, int: INT, float: DOUBLE, bool: BOOL, type(None): NULL}
NUMERIC: Final = {INT, DOUBLE}
ONLY_TO_AUTHORIZE: Final = ("client", PATH)
"""Facts that other blocks do not read, since their results may be stored for other clients."""
FUNCTIONS: Final = ("startsWith", "endsWith", "contains", "matches", "has", "size")


class Typed(NamedTuple):
    """Compiled part of a condition."""

    kind: str
    """Type of the value; `dyn` for JSON, whose types are not known at load."""
    read: Read
    """Function that returns the value for an exchange."""


class Compiler:
    """Compiler of one condition."""

    def __init__(self, scope: Scope) -> None:
        """Prepare to compile a condition that can read the facts of `scope`."""
        self.scope = scope
        self.needs: set[str] = set()
        """Facts that the condition reads (`Scope.facts`)."""
        self.headers: set[str] = set()
        """Header fields of the request that the condition reads, in lower case."""
        self.captures: set[str] = set()
        """Captures of the path that the condition reads."""

    def compile(self, node: Expression) -> Typed:
        """Compile a node.  Raises `ExpressionError`."""
        method: Callable[[Any], Typed] = getattr(self, f"_{type(node).__name__.lower()}")
        return method(node)

    def compile_condition(self, node: Expression) -> Read:
        """Compile a node that must be of type bool.  Raises `ExpressionError`."""
        found = self.compile(node)
        if found.kind not in (BOOL, DYN):
            raise ExpressionError(node.column, f"a condition is expected, and this is of type {found.kind}; compare it")
        return found.read

    # ----- one method for each class of nodes, found by its name

    def _literal(self, node: Literal) -> Typed:
        value = node.value
        return Typed(TYPES[type(value)], lambda _x, _o, _b: value)

    def _items(self, node: Items) -> Typed:
        values = [item.value for item in node.items if isinstance(item, Literal)]
        if len(values) == len(node.items):
            return Typed(LIST, lambda _x, _o, _b: values)
        reads = [self.compile(item).read for item in node.items]

        def read(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
            found = [each(x, o, b) for each in reads]
            return ERROR if ERROR in found else found

        return Typed(LIST, read)

    def _access(self, node: Access) -> Typed:
        owner, name, steps = self._resolve(node)
        kind = STRING if owner == PATH else FIELDS[owner][name]
        if kind == MAP:
            if not steps:
                raise ExpressionError(node.columns[1], f"`{name}` has many values; name one: {owner}.{name}['x']")
            kind = STRING
        return Typed(kind, reader(owner, name, steps))

    def _resolve(self, node: Access) -> tuple[str, str, tuple[str | int, ...]]:
        """Return the owner, the name and the further steps of a fact, and note that the condition reads it.

        Raises `ExpressionError` for a fact that does not exist or is not known in this scope.
        """
        owner, *rest = node.steps
        if owner not in FIELDS:
            raise ExpressionError(node.column, f"`{owner}` is unknown; {_suggest(str(owner), FIELDS)}")
        owner = str(owner)
        if not rest:
            parts = ", ".join(FIELDS[owner]) or "id, for a match with the path /orders/{id}"
            raise ExpressionError(node.column, f"`{owner}` has no value; name a part of it: {owner}.{parts}")
        name, *steps = rest
        if owner in ONLY_TO_AUTHORIZE and owner not in self.scope.facts:
            raise ExpressionError(node.column, f"`{owner}.{name}` is known to `authorize` only")
        if owner == PATH:
            if steps:
                raise ExpressionError(node.columns[2], f"`{steps[0]}` is not a member: a {STRING} has none")
            self.needs.add(owner)
            self.captures.add(str(name))
            return owner, str(name), ()
        if name not in FIELDS[owner]:
            known = _suggest(str(name), FIELDS[owner])
            raise ExpressionError(node.columns[1], f"`{name}` is not a part of `{owner}`; {known}")
        kind = FIELDS[owner][str(name)]
        if kind == MAP and steps and not isinstance(steps[0], str):
            raise ExpressionError(node.columns[2], f"`{name}` takes a name in quotes, such as {owner}.{name}['x']")
        most = {MAP: 1, DYN: 64}.get(kind, 0)
        if len(steps) > most:
            message = f"`{steps[most]}` is not a member: a {STRING if most else kind} has none"
            raise ExpressionError(node.columns[2 + most], message)
        needs = f"{owner}.body" if name == "body" else owner
        if needs not in self.scope.facts:
            raise ExpressionError(node.column, f"`{owner}.{name}` is not known here: {self.scope.why}")
        self.needs.add(needs)
        if (owner, name) == ("request", "headers") and steps:
            self.headers.add(str(steps[0]).lower())
        return owner, str(name), tuple(steps)

    def _not(self, node: Not) -> Typed:
        operand = self.compile_condition(node.operand)

        def read(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
            value = operand(x, o, b)
            return not value if value.__class__ is bool else ERROR

        return Typed(BOOL, read)

    def _logic(self, node: Logic) -> Typed:
        operands = tuple(map(self.compile_condition, node.operands))
        decides = node.operator == "||"

        def read(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
            result: Any = not decides
            for operand in operands:
                value = operand(x, o, b)
                if value is decides:
                    return value
                if value.__class__ is not bool:
                    result = ERROR
            return result

        return Typed(BOOL, read)

    def _relation(self, node: Relation) -> Typed:
        if node.operator == "in" and isinstance(node.right, Access) and self._is_whole_map(node.right):
            return self._membership(node, node.right)
        left, right = self.compile(node.left), self.compile(node.right)
        self._check_types(node, left.kind, right.kind)
        compare = RELATIONS[node.operator]
        one, other = left.read, right.read
        if isinstance(node.right, Literal) and node.operator in ("==", "!="):
            return _compare_literal(one, node.right.value, node.operator == "==")

        def read(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
            first, second = one(x, o, b), other(x, o, b)
            return ERROR if first is ERROR or second is ERROR else compare(first, second)

        return Typed(BOOL, read)

    @staticmethod
    def _is_whole_map(node: Access) -> bool:
        """True for `request.headers` and the like, without a name in it."""
        return len(node.steps) == 2 and FIELDS.get(str(node.steps[0]), {}).get(str(node.steps[1])) == MAP

    def _membership(self, node: Relation, right: Access) -> Typed:
        """Compile `'name' in map`."""
        if not isinstance(node.left, Literal) or not isinstance(node.left.value, str):
            raise ExpressionError(node.left.column, f"`in {right}` takes a name in quotes on its left")
        whole = Access((*right.steps, node.left.value), (*right.columns, node.left.column))
        return Typed(BOOL, presence(*self._resolve(whole)))

    def _check_types(self, node: Relation, left: str, right: str) -> None:
        """Raise `ExpressionError` if a relation of these two types has no meaning or never holds."""
        if node.operator == "in":
            if right not in (LIST, DYN):
                raise ExpressionError(node.column, f"`in` takes a list, headers or query, and this is of type {right}")
            return
        known = {left, right} - {DYN}
        if len(known) > 1 and not known <= NUMERIC:
            raise ExpressionError(node.column, f"`{node.operator}` compares {left} with {right}, which never holds")
        if node.operator not in ("==", "!=") and known & {NULL, LIST}:
            raise ExpressionError(node.column, f"`{node.operator}` has no meaning for {known.pop()}")

    def _call(self, node: Call) -> Typed:
        name, arguments = node.name, node.arguments
        if name not in FUNCTIONS:
            raise ExpressionError(node.column, f"`{name}` is not a function; {_suggest(name, FUNCTIONS)}")
        wanted = 1 if name in ("has", "size") else 2
        if len(arguments) != wanted:
            given = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}, its receiver included"
            raise ExpressionError(node.column, f"`{name}` takes {wanted} and has {given}")
        if name == "has":
            return self._has(node, arguments[0])
        if name == "matches":
            return self._matches(arguments[0], arguments[1])
        parts = [self.compile(argument) for argument in arguments]
        wants = (STRING, LIST, DYN) if name == "size" else (STRING, DYN)
        for part, argument in zip(parts, arguments, strict=True):
            if part.kind not in wants:
                raise ExpressionError(argument.column, f"`{name}` takes a string, and this is of type {part.kind}")
        first, last = parts[0].read, parts[-1].read
        if name == "size":
            return Typed(INT, lambda x, o, b: size(first(x, o, b)))
        function = TEXT_FUNCTIONS[name]
        return Typed(BOOL, lambda x, o, b: function(first(x, o, b), last(x, o, b)))

    def _has(self, node: Call, argument: Expression) -> Typed:
        if not isinstance(argument, Access):
            raise ExpressionError(node.column, "`has` takes a member, such as request.body.a or request.headers['x']")
        owner, name, steps = self._resolve(argument)
        if not steps and name != "body":
            raise ExpressionError(node.column, f"`{argument}` is always present; test a member of it")
        return Typed(BOOL, presence(owner, name, steps))

    def _matches(self, subject: Expression, pattern: Expression) -> Typed:
        if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
            raise ExpressionError(pattern.column, "`matches` takes its pattern in quotes")
        found = self.compile(subject)
        if found.kind not in (STRING, DYN):
            raise ExpressionError(subject.column, f"`matches` takes a string, and this is of type {found.kind}")
        try:
            search = compile_search(pattern.value)
        except ValueError as error:
            raise ExpressionError(pattern.column, f"the pattern {error}") from None
        read = found.read

        def matches(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
            value = read(x, o, b)
            return search(value) if value.__class__ is str and len(value) <= MAX_INPUT else ERROR

        return Typed(BOOL, matches)


def _compare_literal(read: Read, wanted: Any, is_equal: bool) -> Typed:
    """Compile `==` or `!=` with a literal, the most frequent kind of condition."""
    kinds = (int, float) if type(wanted) in (int, float) else (type(wanted),)

    def compare(x: Exchange, o: Outcome | None, b: Bodies) -> Any:
        value = read(x, o, b)
        if value is ERROR:
            return ERROR
        return (value == wanted and value.__class__ in kinds) is is_equal

    return Typed(BOOL, compare)


def _suggest(word: str, known: Any) -> str:
    """Return `did you mean ...?` if a known word is near, else a list of the known words."""
    near = get_close_matches(word, known, 1)
    return f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
