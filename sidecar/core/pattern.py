"""Patterns: regular expressions in policy files, limited to those that match any text in linear time.

Python's engine backtracks, so a careless pattern would let one request block the process.  A pattern is accepted under
these rules:

1. It has groups, classes, alternatives and the quantifiers `* + ? {m,n}`; no look-around, back-references or flags.
2. A repeated group contains neither a quantifier nor alternatives: `(a+)*` is exponential.
3. A quantified character is followed by one that it cannot match itself (`[^/]+/`), or by the end.  One loose
   quantifier (`.*\\.json`) may break this rule: the engine tries each length, so nothing after it may be repeated.
4. It has at most eight alternatives and optional parts, because each may double the work.

`path_regex` matches the whole canonical path (as Envoy's `safe_regex`), of at most `MAX_INPUT` characters.  `matches`
in a condition is that of CEL: without `^` and `$` it finds the pattern anywhere in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_INPUT: Final = 1024
"""Longest path or text that a pattern is matched with, in characters."""
MAX_CHOICES: Final = 8
"""Most alternatives and optional parts of one pattern."""
_TOKEN: Final = re.compile(
    rb"""(?P<open>\((?:\?:|\?P<\w+>)?(?!\?))
    | (?P<close>\))
    | (?P<either>\|)
    | (?P<quantifier>(?:[*+?]|\{\d+(?:,\d*)?\})[?+]?)
    | (?P<atom>\\[dDwWsS] | \\x[0-9A-Fa-f]{2} | \\[^\w\s] | \[\^?+\]?+(?:\\.|[^\]\\\[])*\] | [^\\()\[\]{}*+?|^$])
    """,
    re.VERBOSE,
)
_SET_OPERATION: Final = re.compile(rb"--|&&|\|\||~~")
"""Set operations in character classes, which Python reserves for later versions."""


class _Token(NamedTuple):
    """Lexical element of a pattern."""

    kind: str
    """Name of a group of `_TOKEN`, or `end`."""
    text: bytes


def compile_pattern(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern that matches canonical paths.  Raises `ValueError` with the remedy."""
    if not pattern.isascii():
        raise ValueError("has characters that a path holds percent-encoded; write them so, such as %C3%A9")
    source = pattern.encode()
    tokens = _tokens(source, "the whole path is matched anyway")
    try:
        compiled = re.compile(source, re.DOTALL)
    except (re.error, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    _check_groups(tokens)
    _check_repeats(tokens)
    return compiled


def compile_search(pattern: str) -> Callable[[str], bool]:
    """Compile a pattern to a function that returns True if the pattern matches a part of a text.

    Callers limit texts to `MAX_INPUT` characters.  A pattern without `^` is tried at each position, so it may repeat
    something only at its end.  Raises `ValueError` with the remedy.
    """
    if not pattern.isascii():
        raise ValueError("has characters beyond ASCII; compare them with ==, contains, startsWith or endsWith")
    is_from_start = pattern.startswith("^")
    inner = pattern.removeprefix("^")
    is_to_end = inner.endswith("$") and (len(inner) - len(inner[:-1].rstrip("\\"))) % 2 == 1
    inner = inner[:-1] if is_to_end else inner
    tokens = _tokens(inner.encode(), "`^` stands at the beginning and `$` at the end")
    try:
        compiled = re.compile(rf"(?:{inner})\Z" if is_to_end else inner, re.ASCII)
    except (re.error, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    _check_groups(tokens)
    _check_repeats(tokens)
    if (is_from_start or is_to_end) and _has_open_alternatives(tokens):
        raise ValueError("has alternatives of which only one is anchored; put them into a group: ^(?:a|b)$")
    if is_from_start:
        return lambda text: compiled.match(text) is not None
    for place, token in enumerate(tokens, 1):
        if token.kind == "quantifier" and _repeats(token.text) and (is_to_end or place < len(tokens)):
            raise ValueError(f"repeats `{token.text.decode()}` and may begin anywhere; let it begin with `^`")
    return lambda text: compiled.search(text) is not None


def _has_open_alternatives(tokens: list[_Token]) -> bool:
    """True if the pattern has alternatives outside any group."""
    depth = 0
    for kind, _ in tokens:
        depth += (kind == "open") - (kind == "close")
        if kind == "either" and not depth:
            return True
    return False


def literal_prefix(pattern: str) -> bytes:
    """Return the literal text with which every match begins; empty if the pattern has alternatives."""
    tokens = _tokens(pattern.encode())
    prefix = b""
    if any(token.kind == "either" for token in tokens):
        return prefix
    for token, after in zip(tokens, [*tokens[1:], _Token("end", b"")], strict=True):
        octets = _octets(token.text) if token.kind == "atom" else frozenset[int]()
        if len(octets) != 1 or after.kind == "quantifier":
            break
        prefix += bytes(octets)
    return prefix


def _tokens(source: bytes, on_anchors: str = "") -> list[_Token]:
    """Return the tokens of a pattern.  Raises `ValueError`; `on_anchors` is its remedy for `^` and `$`."""
    found = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            rest = source[position : position + (3 if source[position] == ord("(") else 1)].decode("utf-8", "replace")
            after = source[position + 1 : position + 2].decode("utf-8", "replace")
            hint = on_anchors if rest in "^$" else "escape a literal character with `\\`"
            if rest == "\\" and after.isdigit():
                rest, hint = f"\\{after}", "a back-reference takes exponential time, write the text out"
            elif rest == "\\" and after.isalpha():
                rest, hint = f"\\{after}", "known are \\d, \\w, \\s, their opposites, and \\xHH"
            raise ValueError(f"has `{rest}` at column {position + 1}, which is not supported; {hint}")
        if match[0][:1] == b"[" and _SET_OPERATION.search(match[0], 1):
            raise ValueError(f"has the class `{match[0].decode()}`; escape its characters `- & | ~` with `\\`")
        found.append(_Token(str(match.lastgroup), match[0]))
        position = match.end()
    return found


def _octets(atom: bytes) -> frozenset[int]:
    """Return the octets that a character or class matches."""
    matches = re.compile(atom, re.DOTALL).fullmatch
    return frozenset(octet for octet in range(256) if matches(bytes((octet,))))


def _repeats(quantifier: bytes) -> bool:
    """True if a quantifier allows several lengths above one, unlike `?` and `{3}`."""
    return quantifier[:1] in b"*+" or (quantifier[:1] == b"{" and b"," in quantifier)


def _check_groups(tokens: list[_Token]) -> None:
    """Raise `ValueError` for a pattern that breaks rule 2 or 4."""
    open_groups: list[list[str]] = [[]]
    choices = 0
    for index, (kind, text) in enumerate(tokens):
        after = tokens[index + 1] if index + 1 < len(tokens) else _Token("end", b"")
        if kind == "open":
            open_groups.append([])
        elif kind == "close":
            inside = open_groups.pop()
            if not open_groups:  # it would close the group that `compile_search` puts around the pattern
                raise ValueError("is not a regular expression: a `)` closes nothing")
            if after.kind == "quantifier" and after.text[:1] != b"?" and inside:
                raise ValueError(
                    f"repeats a group that itself holds `{inside[0]}`, which can take exponential time; "
                    "repeat single characters or classes, such as `[a-z/]+`"
                )
            open_groups[-1] += inside
        elif kind == "quantifier" or kind == "either":
            open_groups[-1].append(text.decode())
            choices += kind == "either" or text[:1] == b"?"
    if choices > MAX_CHOICES:
        raise ValueError(f"has {choices} alternatives and optional parts; at most {MAX_CHOICES}: split it up")


def _check_repeats(tokens: list[_Token]) -> None:
    """Raise `ValueError` for a pattern that breaks rule 3."""
    loose = ""
    for index, (kind, quantifier) in enumerate(tokens):
        if kind != "quantifier" or not _repeats(quantifier):
            continue
        before = tokens[index - 1]
        part = (before.text + quantifier).decode("utf-8", "replace")
        if loose:
            raise ValueError(
                f"repeats `{part}` after `{loose}`, which can take quadratic time; "
                f"let `{loose}` stop at the next character, such as `[^/]*/`"
            )
        if not _is_bounded(tokens, index):
            loose = part


def _is_bounded(tokens: list[_Token], index: int) -> bool:
    """True if the quantifier at `index` is followed by the end, or by a character that its own cannot match."""
    position = index + 1
    while position < len(tokens) and _is_transparent(tokens, position):
        position += 1
    if position == len(tokens):
        return True
    repeated, following = tokens[index - 1], tokens[position]
    after = tokens[position + 1] if position + 1 < len(tokens) else _Token("end", b"")
    if repeated.kind != "atom" or following.kind != "atom" or after.text[:1] in (b"*", b"?", b"{"):
        return False
    return _octets(repeated.text).isdisjoint(_octets(following.text))


def _is_transparent(tokens: list[_Token], position: int) -> bool:
    """True for a parenthesis of a group that is matched exactly once and in one way."""
    kind = tokens[position].kind
    if kind == "close":
        return position + 1 == len(tokens) or tokens[position + 1].kind != "quantifier"
    if kind != "open":
        return False
    depth = 0
    for index in range(position, len(tokens)):
        depth += (tokens[index].kind == "open") - (tokens[index].kind == "close")
        if tokens[index].kind == "either" and depth == 1:
            return False
        if depth == 0:
            return _is_transparent(tokens, index)
    return False
