"""Lexer of conditions.  Every token has its column, so that errors can name it."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sidecar.expression import MAX_LENGTH

INT_BITS: Final = 63
"""Bits of an int literal, without its sign."""


class ExpressionError(ValueError):
    """Error in a condition."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"is not a valid condition: column {column}: {message}")
        self.column = column
        """Column of the error; columns count characters from 1."""


class Token(NamedTuple):
    """Smallest part of a condition."""

    kind: str
    """`name`, `literal`, `end`, or the operator or bracket itself."""
    value: Any
    column: int

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end"
        return f"`{self.value}`" if self.kind == "name" else "a literal" if self.kind == "literal" else f"`{self.kind}`"


_STRING: Final = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_TOKEN: Final = re.compile(
    rf"""(?P<space>[ \t\r\n]++)
    | (?P<number>(?:0[xX][0-9a-fA-F]++|[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)[A-Za-z_]*+)
    | (?P<raw>[rR](?:'[^'\n]*+'|"[^"\n]*+"))
    | (?P<string>{_STRING})
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*+)
    | (?P<operator>&&|\|\||==|!=|<=|>=|[<>!()\[\].,-])
    """,
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\'\"`?])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PLAIN: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS: Final = {"true": True, "false": False, "null": None}
_HINTS: Final = {
    "=": "compare with `==`",
    "&": "and is `&&`",
    "|": "or is `||`",
    "?": "there is no `? :` here",
    ":": "there is no `? :` here",
    "{": "there are no maps here",
    "'": "the text that begins here has no closing quote",
    '"': "the text that begins here has no closing quote",
    **dict.fromkeys("+*/%", "there is no arithmetic here"),
}


def tokens(text: str) -> list[Token]:
    """Return all tokens; the last one is of kind `end`.  Raises `ExpressionError`."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(MAX_LENGTH + 1, f"a condition has at most {MAX_LENGTH} characters")
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        column = at + 1
        if match is None:
            hint = _HINTS.get(text[at])
            raise ExpressionError(column, f"`{text[at]}` is not understood" + (f"; {hint}" if hint else ""))
        word = match[0]
        if match.lastgroup == "number":
            found.append(Token("literal", _number(word, column), column))
        elif match.lastgroup == "raw":
            found.append(Token("literal", word[2:-1], column))
        elif match.lastgroup == "string":
            found.append(Token("literal", _unescaped(word[1:-1], column + 1), column))
        elif match.lastgroup == "name":
            if word in _WORDS:
                found.append(Token("literal", _WORDS[word], column))
            else:
                found.append(Token("in" if word == "in" else "name", word, column))
        elif match.lastgroup == "operator":
            found.append(Token(word, word, column))
        at = match.end()
    found.append(Token("end", "", len(text) + 1))
    return found


def _number(word: str, column: int) -> int | float:
    """Return the value of a number.  Raises `ExpressionError`."""
    if word[:2] in ("0x", "0X") and re.fullmatch(r"0[xX][0-9a-fA-F]+", word):
        value: int | float = int(word, 16)
    elif re.fullmatch(r"[0-9]{1,40}", word):
        value = int(word)
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", word):
        value = float(word)
    else:
        raise ExpressionError(column, f"`{word}` is not a number; write it such as 10, 0x1F, 2.5 or 1e3")
    if isinstance(value, int) and value.bit_length() > INT_BITS:
        raise ExpressionError(column, f"`{word}` is beyond 64 bits; write it as a double, such as 1e20")
    return value


def _unescaped(text: str, column: int) -> str:
    """Return the inside of a quoted text without its escapes.  Raises `ExpressionError`."""

    def value(match: re.Match[str]) -> str:
        if match[4] is not None:
            where = column + match.start()
            raise ExpressionError(
                where, rf"`\{match[4]}` is not an escape; a backslash is written `\\`, or in a raw text r'…'"
            )
        if match[1] is not None:
            return _PLAIN.get(match[1], match[1])
        letter = chr(int(match[2] or match[3], 16))
        if "\ud800" <= letter <= "\udfff":
            raise ExpressionError(
                column + match.start(), f"`{match[0]}` is half of a character; write the character itself"
            )
        return letter

    return _ESCAPE.sub(value, text)
