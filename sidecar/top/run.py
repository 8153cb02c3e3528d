"""Screen loop of `sidecar top`: draws the screen at each event, and connects again when the stream ends."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sidecar.top.keys import quit_key
from sidecar.top.stream import Model, StreamError, follow
from sidecar.top.view import screen

PAUSE_SECONDS: Final = 2.0
"""Pause before connecting again."""


def terminal() -> Console:
    """Return a console that prints texts literally, without markup or emoji names."""
    return Console(markup=False, emoji=False, highlight=False)


def once(host: str, port: int, token: str | None) -> None:
    """Print one screen.  Raises `StreamError`."""
    model = Model()
    for event, data in follow(host, port, token):
        model.take(event, data)
        break
    terminal().print(screen(model))


def run(host: str, port: int, token: str | None) -> None:
    """Draw the screen until `q` or Ctrl-C, which raise `KeyboardInterrupt`.

    Raises `StreamError` if the first connection fails; after later failures it connects again.
    """
    console, model, seen = terminal(), Model(), False
    with quit_key(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                for event, data in follow(host, port, token):
                    seen = True
                    model.take(event, data)
                    live.update(screen(model, console.height), refresh=True)
                trouble = "the sidecar has ended the stream"
            except StreamError as error:
                if not seen:
                    raise
                trouble = str(error)
            live.update(Group(Text(trouble, "bold red"), screen(model, console.height - 1)), refresh=True)
            time.sleep(PAUSE_SECONDS)
