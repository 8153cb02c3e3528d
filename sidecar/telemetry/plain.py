"""Conversion of values to plain JSON, bounded in size and without secrets, for logs and `/state`.

A secret is recognised in four ways, because none of them finds all secrets: by the name of its field; by its form in a
text (credentials in a URL, a value of Authorization); by its value (`Secrets.hide`: tokens from policies, environment
and files); and by its origin (`Secrets.mask`: values that policy files take from `${NAME}`).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

MAX_TEXT: Final = 4096
"""Most characters of one text."""
MAX_ITEMS: Final = 1000
"""Most members of one mapping or list."""
MAX_DEPTH: Final = 12
"""Deepest nesting of a value."""
HIDDEN: Final = "[hidden]"
"""Text in place of a secret."""
KEPT: Final = 8
"""Number of policy sets whose masks are in force at the same time."""
MIN_SECRET: Final = 4
"""Fewest characters of a secret; replacing shorter texts would garble every line."""

_secret_name: Final = re.compile(
    r"(?i)(?:authorization|cookies?|passwd|password|passphrase|secret|token|credentials?|api[_-]?key|private[_-]?key)$"
).search
_user_information: Final = re.compile(r"(?<=://)[^\s/?#]*@")
_authorization: Final = re.compile(r"(?i)\b(bearer|basic|digest)\s+[\w.~+/=-]{4,}")
_token: Final = re.compile(r"\w+|\W")


class Masks:
    """Texts that are replaced by other texts where they are whole words.  Case does not matter.

    A text is searched word by word, so that the work does not grow with the number of masks.
    """

    __slots__ = ("_lengths", "_shown", "replacements")

    def __init__(self, replacements: Mapping[str, str]) -> None:
        self.replacements = dict(replacements)
        """Replacement of each text."""
        self._shown = {word.lower(): shown for word, shown in self.replacements.items() if word}
        lengths: dict[str, set[int]] = {}
        for word in self._shown:
            lengths.setdefault(_token.match(word)[0], set()).add(len(word))  # type: ignore[index]
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        """Lengths of the masked texts, longest first, by their first token."""

    def text(self, value: str) -> str:
        """Return the text with masked words replaced."""
        lower = value.lower()
        if not self._lengths or len(lower) != len(value):
            return value
        pieces, done = [], 0
        for match in _token.finditer(lower):
            begin = match.start()
            for length in self._lengths.get(match[0], ()) if begin >= done else ():
                end = begin + length
                shown = self._shown.get(lower[begin:end])
                if shown is not None and end <= len(lower) and _token_ends(lower, end):
                    pieces += [value[done:begin], shown]
                    done = end
                    break
        return "".join([*pieces, value[done:]]) if pieces else value


def _token_ends(text: str, end: int) -> bool:
    """True if a word or another character ends at the index `end`."""
    return end == len(text) or _token.match(text, end - 1).end() == end  # type: ignore[union-attr]


class Secrets:
    """Converter of values to plain JSON values, which hides secrets."""

    __slots__ = ("_known", "_masks", "_origins", "_words")

    def __init__(self) -> None:
        self._known: re.Pattern[str] | None = None
        self._words: dict[str, set[str]] = {}
        self._origins: deque[Masks] = deque(maxlen=KEPT)
        self._masks = Masks({})

    def mask(self, masks: Masks) -> None:
        """Replace the texts of `masks` in all output from now on.

        The masks of the last `KEPT` calls are in force, because values of older policies are used for a while after a
        reload.
        """
        if all(known.replacements != masks.replacements for known in self._origins):
            self._origins.append(masks)
            self._masks = Masks({word: shown for each in self._origins for word, shown in each.replacements.items()})

    def hide(self, values: Iterable[str], whose: str = "") -> None:
        """Hide texts in all output from now on; they replace those that the same owner, `whose`, named before.

        Texts shorter than `MIN_SECRET` are not hidden.
        """
        self._words[whose] = {v for v in values if len(v) >= MIN_SECRET}
        words = sorted(set().union(*self._words.values()), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, value: str) -> str:
        """Return the text without secrets, cut to `MAX_TEXT` characters."""
        if self._known is not None:
            value = self._known.sub(HIDDEN, value)
        value = self._masks.text(value)
        value = _authorization.sub(rf"\1 {HIDDEN}", value[: 2 * MAX_TEXT])
        if "://" in value:
            value = _user_information.sub(f"{HIDDEN}@", value)
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return a value as JSON-ready values without secrets.  Never raises.

        Infinity and NaN become texts, because JSON has no such numbers.
        """
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray):
            return self.text(value.decode("latin-1"))
        if depth >= MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return dict(self._member(key, item, depth) for key, item in islice(value.items(), MAX_ITEMS))
        if isinstance(value, list | tuple | set | frozenset):
            return [self.plain(item, depth + 1) for item in islice(value, MAX_ITEMS)]
        if isinstance(value, BaseException):
            return self.text(f"{type(value).__name__}: {_shown(value)}")
        return self.text(_shown(value))

    def _member(self, key: Any, item: Any, depth: int) -> tuple[str, Any]:
        """Return a member of a mapping as JSON-ready values, hidden if its name is that of a secret."""
        name = key if isinstance(key, str) else _shown(key)
        if names_secret(name) and isinstance(
            item, str | bytes | bytearray | list | tuple
        ):  # a number, such as a count of tokens, is no secret
            return name, HIDDEN
        return self._masks.text(name), self.plain(item, depth + 1)


@lru_cache(1024)
def names_secret(name: str) -> bool:
    """True if a field with this name holds a secret."""
    return _secret_name(name) is not None


def _shown(value: Any) -> str:
    """Return a value as text, even if its `__str__` raises."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
