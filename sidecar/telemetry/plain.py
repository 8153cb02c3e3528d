"""Anything as plain JSON values, bounded in size and without secrets: for logs and for `/state`.

Nothing secret is ever printed, on three grounds, because each of them alone has a hole: fields whose name says that
they bear a secret; the shapes that secrets have inside text (credentials in a URL, an Authorization value); and the
very values that are known to be secret (`Secrets.hide`: tokens from the policies, the environment and files).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

MAX_TEXT: Final = 4096
MAX_ITEMS: Final = 1000
MAX_DEPTH: Final = 12
HIDDEN: Final = "[hidden]"
MIN_SECRET: Final = 4
"""A shorter value is no secret, and replacing it would garble every line."""

_secret_name: Final = re.compile(
    r"(?i)(?:authorization|cookies?|passwd|password|passphrase|secret|token|credentials?|api[_-]?key|private[_-]?key)$"
).search
_user_information: Final = re.compile(r"(?<=://)[^\s/?#]*@")
_authorization: Final = re.compile(r"(?i)\b(bearer|basic|digest)\s+[\w.~+/=-]{4,}")


class Secrets:
    """Makes values plain.  Knows which texts must not be seen."""

    __slots__ = ("_known", "_words")

    def __init__(self) -> None:
        self._known: re.Pattern[str] | None = None
        self._words: dict[str, set[str]] = {}

    def hide(self, values: Iterable[str], whose: str = "") -> None:
        """The texts that are secret from now on, in place of the same owner's before.  Too short ones are left
        alone."""
        self._words[whose] = {v for v in values if len(v) >= MIN_SECRET}
        words = sorted(set().union(*self._words.values()), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, value: str) -> str:
        """The text without what must not be seen, and not longer than `MAX_TEXT`."""
        if self._known is not None:
            value = self._known.sub(HIDDEN, value)
        value = _authorization.sub(rf"\1 {HIDDEN}", value[: 2 * MAX_TEXT])
        if "://" in value:
            value = _user_information.sub(f"{HIDDEN}@", value)
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The value as JSON has it.  Never raises; infinity and NaN become texts, as JSON has no other way."""
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
        name = key if isinstance(key, str) else _shown(key)
        if names_secret(name) and isinstance(
            item, str | bytes | bytearray | list | tuple
        ):  # a number of tokens is none
            return name, HIDDEN
        return name, self.plain(item, depth + 1)


@lru_cache(1024)
def names_secret(name: str) -> bool:
    return _secret_name(name) is not None


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
