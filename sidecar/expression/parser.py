"""Pratt parser of conditions (Pratt, "Top Down Operator Precedence", 1973).

Binding, loosest first: `||`, `&&`, relations, `!` and `-`, then `.name`, `[index]` and calls.  Unlike in CEL relations
do not chain: `a < b < c` is an error.  Depth is bounded, so that neither parser nor evaluation can exhaust the stack.
"""

from __future__ import annotations

from typing import Final

from sidecar.expression.lexer import ExpressionError, Token, tokens
from sidecar.expression.tree import Access, Call, Expression, Items, Literal, Logic, Not, Relation

MAX_DEPTH: Final = 32
"""Levels of nesting, at most."""
BINDING: Final = {"||": 1, "&&": 2, **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3)}
"""Binding power of the binary operators."""
MAX_ITEMS: Final = 256
"""Members of a list, at most."""


def parse(text: str) -> Expression:
    """Return the tree of a condition.  Raises `ExpressionError`."""
    parser = _Parser(tokens(text))
    found = parser.expression(0)
    parser.expect("end", "an operator such as `==`, `&&` or `||`, or the end")
    return found


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def next(self) -> Token:
        return self._tokens[self._at]

    def take(self) -> Token:
        token = self._tokens[self._at]
        self._at += token.kind != "end"
        return token

    def expect(self, kind: str, wanted: str) -> Token:
        if self.next.kind != kind:
            raise ExpressionError(self.next.column, f"{self.next} stands where {wanted} is expected")
        return self.take()

    def expression(self, binding: int) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(self.next.column, f"conditions nest at most {MAX_DEPTH} deep")
        left = self.unary()
        while BINDING.get(self.next.kind, 0) > binding:
            left = self.binary(left, self.take())
        self._depth -= 1
        return left

    def binary(self, left: Expression, operator: Token) -> Expression:
        right = self.expression(BINDING[operator.kind])
        if operator.kind in ("&&", "||"):
            flat = left.operands if isinstance(left, Logic) and left.operator == operator.kind else (left,)
            return Logic(operator.kind, (*flat, right), operator.column)
        if BINDING.get(self.next.kind) == BINDING[operator.kind]:
            raise ExpressionError(self.next.column, "comparisons do not chain; write `a < b && b < c`")
        return Relation(operator.kind, left, right, operator.column)

    def unary(self) -> Expression:
        token = self.next
        if token.kind == "!":
            self.take()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ExpressionError(token.column, f"conditions nest at most {MAX_DEPTH} deep")
            operand = self.unary()
            self._depth -= 1
            return Not(operand, token.column)
        if token.kind == "-":
            self.take()
            number = self.take()
            if number.kind != "literal" or type(number.value) not in (int, float):
                raise ExpressionError(token.column, "`-` stands before a number only; there is no arithmetic here")
            return Literal(-number.value, token.column)
        return self.member()

    def member(self) -> Expression:
        found = self.primary()
        while self.next.kind in (".", "["):
            if self.take().kind == "[":
                index = self.take()
                if index.kind != "literal" or type(index.value) not in (str, int):
                    raise ExpressionError(index.column, "an index is a text in quotes, or a whole number")
                self.expect("]", "`]`")
                found = self.step(found, index)
            else:
                name = self.expect("name", "a name")
                if self.next.kind == "(":
                    found = Call(name.value, (found, *self.arguments()), name.column)
                else:
                    found = self.step(found, name)
        return found

    @staticmethod
    def step(found: Expression, step: Token) -> Access:
        if not isinstance(found, Access):
            raise ExpressionError(step.column, "only `request` and `response` have members")
        return Access((*found.steps, step.value), (*found.columns, step.column))

    def primary(self) -> Expression:
        token = self.take()
        if token.kind == "literal":
            return Literal(token.value, token.column)
        if token.kind == "name":
            if self.next.kind == "(":
                return Call(token.value, self.arguments(), token.column)
            return Access((token.value,), (token.column,))
        if token.kind == "(":
            found = self.expression(0)
            self.expect(")", "`)`")
            return found
        if token.kind == "[":
            return Items(self.listed("]"), token.column)
        raise ExpressionError(token.column, f"{token} stands where a value is expected")

    def arguments(self) -> tuple[Expression, ...]:
        self.expect("(", "`(`")
        return self.listed(")")

    def listed(self, end: str) -> tuple[Expression, ...]:
        found: list[Expression] = []
        while self.next.kind != end:
            if found:
                self.expect(",", f"`,` or `{end}`")
            if len(found) == MAX_ITEMS:
                raise ExpressionError(self.next.column, f"a list has at most {MAX_ITEMS} members")
            found.append(self.expression(0))
        self.take()
        return tuple(found)
