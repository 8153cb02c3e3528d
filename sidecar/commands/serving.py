"""Commands that run a process: `run`, `demo`, `top`."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from sidecar.command_line import Choice, Failure, reject
from sidecar.commands.files import PATH, tcp_address, token_option
from sidecar.commands.group import main

DEMO_PORTS: Final = {
    "trial": {"DEMO_PORT": 1, "DEMO_ADMIN_PORT": 1, "DEMO_SERVICE_PORT": 4},
    "shop": {"SHOP_PORT": 100},
}
"""Variables of the first port of each demonstration, with the number of ports from there on that may be used."""


@main.command("run", examples=[("sidecar run policies.yaml", "Serve until SIGTERM or Ctrl-C.")])
@click.argument("path", type=PATH)
def serve(path: str) -> None:
    """Serve until SIGTERM.

    Changed policy files are read again, at once with SIGHUP.  A file with a problem changes nothing.  SIGUSR2 starts a
    new process, which takes the listening sockets over while this one drains.
    """
    from sidecar.process.interpreter import prepare_imports
    from sidecar.process.start import prepare_process

    prepare_process()
    prepare_imports()
    from sidecar.app import run

    run(path)


@main.command(
    examples=[
        ("sidecar demo", "Try each policy once, then with curl."),
        ("SHOP_PORT=8100 sidecar demo shop", "Watch a shop of five services, on port 8100."),
    ]
)
@click.argument("which", type=Choice(["trial", "shop"]), default="trial")
def demo(which: str) -> None:
    """Try the sidecar on this machine.

    Services and sidecars run on loopback until Ctrl-C.

    trial (the default): four services behind one sidecar; each policy is tried once.  Other ports: DEMO_PORT,
    DEMO_ADMIN_PORT, DEMO_SERVICE_PORT.  DEMO_ONCE=1 ends it after the trial.

    shop: five services that call each other, a sidecar beside each, customers, and trouble once a minute.  Other
    ports: SHOP_PORT.  SHOP_ONCE=1 ends it after one order.
    """
    for name, many in DEMO_PORTS[which].items():
        check_port(name, many)
    if which == "shop":
        from sidecar.demo.shop.run import main as run
    else:
        from sidecar.demo.trial import main as run
    sys.exit(run())


def check_port(name: str, many: int) -> None:
    """Raise `click.BadParameter` unless an environment variable names a port that has `many` - 1 ports after it."""
    value = os.environ.get(name, "1")
    highest = 65536 - many
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= highest):
        reject(name, f"`{value}` is not a port; write a number from 1 to {highest}")


@main.command(
    examples=[
        ("sidecar top", "Watch the sidecar on this machine."),
        ("sidecar top --once 10.0.0.7:9901", "Print one screen of another one."),
    ]
)
@click.argument("address", default="127.0.0.1:9901")
@token_option
@click.option("--once", is_flag=True, help="Print one screen and end.")
def top(address: str, token: str | None, once: bool) -> None:
    """Watch a running sidecar in the terminal.

    It shows traffic, breakers, endpoints, limits and refusals, as the live page does.
    ADDRESS is its admin listener, 127.0.0.1:9901 by default.  The key q ends the command.
    """
    try:
        from sidecar.top import run as screen
        from sidecar.top.stream import StreamError
    except ImportError:
        raise Failure("sidecar top: the library rich is not installed; pip install 'resilience-sidecar[top]'") from None
    host, port = tcp_address("ADDRESS", address)
    try:
        (screen.once if once else screen.run)(host, port, token)
    except StreamError as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        return
