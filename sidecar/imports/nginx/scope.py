"""nginx blocks around a location, and the directives that hold within them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from sidecar.imports.nginx.grammar import Directive
from sidecar.imports.units import seconds

VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
REFUSALS: Final = frozenset({"400", "401", "403", "404", "405", "410", "444", "451"})
"""Statuses of a `return` that keeps requests out."""


def refuses(block: Directive) -> bool:
    """True if a block answers all its requests with one of `REFUSALS`."""
    return any(each.name == "return" and set(each.words[:1]) & REFUSALS for each in block.block)


class Scope:
    """Blocks around a location, the innermost one last."""

    def __init__(self, blocks: list[Directive], *, knows_proxies: bool = False) -> None:
        self.blocks = blocks
        self.knows_proxies = knows_proxies
        """True if the listener has the trusted proxies of `set_real_ip_from`."""

    def every(self, *names: str) -> list[Directive]:
        """Return the directives of some names in the innermost block that has any."""
        for block in reversed(self.blocks):
            if found := block.named(*names):
                return found
        return []

    def one(self, name: str) -> Directive | None:
        """Return the directive of a name in the innermost block that has it."""
        return next(iter(self.every(name)), None)

    def all(self, name: str) -> list[Directive]:
        """Return the directives of a name in all blocks."""
        return [each for block in self.blocks for each in block.named(name)]

    def constant(self, text: str) -> str:
        """Return a text with the values of variables that `set` gives a constant."""
        known = {each.word(): each.word(1) for each in self.all("set") if "$" not in each.word(1)}
        return VARIABLE.sub(lambda found: known.get(f"${found[1] or found[2]}", found[0]), text)

    def guards(self) -> list[Directive]:
        """Return the `if` blocks that answer with one of `REFUSALS`."""
        return [each for block in self.blocks for each in block.block if each.name == "if" and refuses(each)]

    @property
    def hides_clients(self) -> bool:
        """True if the address of a client is one that other proxies state, and the listener does not know them."""
        return bool(self.every("set_real_ip_from")) and not self.knows_proxies


def length(directive: Directive, text: str = "") -> Fraction:
    """Return a time of a directive in seconds.  Raises `TranslationError` for other texts."""
    found = seconds(text or directive.word(), "s")
    if found is None:
        raise directive.fail("has no time such as 30s or 1m")
    return found
