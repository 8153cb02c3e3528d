"""Directives of an nginx configuration: words, quotes, blocks and comments, each with its line.

A directive counts as read once its reader asks for it; the others are reported.  Blocks of Lua are one directive each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sidecar.imports.findings import NO_EQUAL, Findings, TranslationError, printable

MOST_TEXT: Final = 1 << 20
"""Most characters of a file."""
MOST_DEPTH: Final = 40
"""Deepest nesting of blocks."""
SPACES: Final = " \t\r\n"
ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n"}


class Token(NamedTuple):
    """Word, or one of `;`, `{` and `}`."""

    text: str
    line: int
    is_word: bool
    end: int = 0
    """Index of the text behind it."""


class Directive:
    """Directive with its arguments, and those of its block."""

    def __init__(self, findings: Findings, name: str, words: list[str], line: int) -> None:
        self.findings = findings
        self.name = name
        self.words = words
        """Arguments."""
        self.line = line
        self.block: list[Directive] = []
        self.is_read = False

    @property
    def shown(self) -> str:
        """Directive as findings show it."""
        return printable(" ".join([self.name, *self.words]))[:80]

    def named(self, *names: str) -> list[Directive]:
        """Return the directives of the block with one of these names, which count as read."""
        found = [each for each in self.block if each.name in names]
        for each in found:
            each.is_read = True
        return found

    def take(self) -> None:
        """Mark the directive as read with all that is within."""
        self.is_read = True
        for each in self.block:
            each.take()

    def lose(self, why: str = NO_EQUAL) -> None:
        """Report the directive, with all that is within, as not translated."""
        self.take()
        self.findings.lose(self.line, self.shown, why)

    def differ(self, why: str) -> None:
        """Report that the directive has another meaning here."""
        self.findings.differ(self.line, self.shown, why)

    def fail(self, why: str) -> TranslationError:
        """Return the error for this directive."""
        return TranslationError(f"{self.findings.place(self.line)}: {self.shown}: {why}")

    def word(self, at: int = 0) -> str:
        """Return an argument.  Raises `TranslationError` if there is none."""
        if at >= len(self.words):
            raise self.fail(f"has {len(self.words)} arguments; {at + 1} would be right")
        return self.words[at]

    def report_unread(self) -> None:
        """Report each directive within that nobody has read."""
        for each in self.block:
            if not each.is_read:
                each.lose()
            else:
                each.report_unread()


def read_directives(findings: Findings, text: str) -> Directive:
    """Return the directives of a file as the block of one without a name.  Raises `TranslationError`."""
    if len(text) > MOST_TEXT:
        raise TranslationError(f"{findings.file}: has more than {MOST_TEXT} characters; split the file")
    root = Directive(findings, "", [], 1)
    root.is_read = True
    stack = [root]
    words: list[Token] = []
    skip_to = 0
    for token in _tokens(findings, text):
        if token.end <= skip_to:
            continue
        if token.is_word:
            words.append(token)
            continue
        if token.text == "}":
            if words or len(stack) == 1:
                raise _wrong(findings, token.line, "has a `}` too early; end each directive with `;`")
            stack.pop()
            continue
        if not words:
            raise _wrong(findings, token.line, f"has a `{token.text}` without a directive; name one before it")
        directive = Directive(findings, words[0].text, [each.text for each in words[1:]], words[0].line)
        stack[-1].block.append(directive)
        words = []
        if token.text == "{":
            if directive.name.endswith("_by_lua_block"):
                skip_to = _end_of_lua(findings, text, token)
                continue
            stack.append(directive)
            if len(stack) > MOST_DEPTH:
                raise _wrong(findings, token.line, f"has more than {MOST_DEPTH} blocks within each other; at most that")
    if words or len(stack) > 1:
        line = words[0].line if words else stack[-1].line
        raise _wrong(findings, line, "begins a directive that does not end; end it with `;` or `}`")
    return root


def _wrong(findings: Findings, line: int, why: str) -> TranslationError:
    return TranslationError(f"{findings.place(line)}: {why}")


def _end_of_lua(findings: Findings, text: str, token: Token) -> int:
    depth, at = 1, token.end
    while depth:
        closing, opening = text.find("}", at), text.find("{", at)
        if closing < 0:
            raise _wrong(findings, token.line, "begins a block of Lua that does not end; end it with `}`")
        is_open = 0 <= opening < closing
        depth += 1 if is_open else -1
        at = (opening if is_open else closing) + 1
    return at


def _tokens(findings: Findings, text: str) -> Iterator[Token]:
    at, line, size = 0, 1, len(text)
    while at < size:
        letter = text[at]
        if letter in SPACES:
            line += letter == "\n"
            at += 1
        elif letter == "#":
            end = text.find("\n", at)
            at = size if end < 0 else end
        elif letter in ";{}":
            yield Token(letter, line, False, at + 1)
            at += 1
        else:
            word, end = _quoted(findings, text, at, line) if letter in "'\"" else _word(text, at)
            yield Token(word, line, True, end)
            line += text.count("\n", at, end)
            at = end


def _word(text: str, at: int) -> tuple[str, int]:
    pieces: list[str] = []
    size = len(text)
    while at < size and text[at] not in SPACES + ";{":
        if text[at] == "\\" and at + 1 < size:
            pieces.append(text[at : at + 2])
            at += 2
        elif text.startswith("${", at):
            end = text.find("}", at)
            end = size if end < 0 else end + 1
            pieces.append(text[at:end])
            at = end
        else:
            pieces.append(text[at])
            at += 1
    return "".join(pieces), at


def _quoted(findings: Findings, text: str, at: int, line: int) -> tuple[str, int]:
    quote, start, size = text[at], at, len(text)
    pieces: list[str] = []
    at += 1
    while at < size:
        letter = text[at]
        if letter == quote:
            return "".join(pieces), at + 1
        if letter == "\\" and at + 1 < size:
            following = text[at + 1]
            pieces.append(ESCAPES.get(following) or (following if following in "'\"\\" else letter + following))
            at += 2
        else:
            pieces.append(letter)
            at += 1
    raise _wrong(findings, line, f"has a quote that does not end: {printable(text[start : start + 20])}")
