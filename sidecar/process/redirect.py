"""Rules of the kernel that redirect the connections of this network namespace to the sidecar (`sidecar capture`).

Rules:

1. Connections of the sidecar's own user are exempt, and so is loopback.  Without the first the sidecar would get its
   own connections back.
2. nftables rules are in a table of their own, and iptables rules in a chain of their own.  Applying replaces both as a
   whole, so that a second run changes nothing; undoing removes them.
3. A family of addresses is redirected if a listener of it takes redirected connections.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final, NamedTuple

from sidecar.config.listen_address import ListenAddress
from sidecar.config.spec import PolicySpec

TABLE: Final = "sidecar_capture"
"""Name of the table of nftables."""
CHAIN: Final = "SIDECAR_CAPTURE"
"""Name of the chain of iptables."""
V4_HOSTS: Final = ("127.0.0.1", "0.0.0.0", "localhost")  # noqa: S104 - compared, not bound
V6_HOSTS: Final = ("::1", "::")


class RedirectError(Exception):
    """Raised for rules that cannot be made or applied, with the remedy."""


class Redirect(NamedTuple):
    """Connections to redirect, and where to."""

    port: int | None
    """Port of the listener for IPv4; None to leave IPv4 alone."""
    port6: int | None
    """Port of the listener for IPv6; None to leave IPv6 alone."""
    uid: int
    """User of the sidecar."""
    skip_ports: tuple[int, ...] = ()
    """Ports of servers whose connections are not redirected."""
    skip_networks: tuple[str, ...] = ()
    """Networks of servers whose connections are not redirected."""


def plan(spec: PolicySpec, uid: int, skip_ports: Sequence[int] = (), skip_networks: Sequence[str] = ()) -> Redirect:
    """Return what the listeners of policies need.  Raises `RedirectError`."""
    found: dict[bool, tuple[str, int]] = {}
    for name, listener in spec.listeners.items():
        if not listener.original_destination:
            continue
        address = listener.address
        if address.port == 0:
            raise RedirectError(f"listeners.{name}.address: has port 0, which no rule can name; write a fixed port")
        is_v6 = _family(name, address)
        if is_v6 in found:
            family = "IPv6" if is_v6 else "IPv4"
            first = found[is_v6][0]
            raise RedirectError(
                f"listeners.{name}: takes redirected connections of {family} as {first} does; leave one of them"
            )
        found[is_v6] = (name, address.port)
    if not found:
        raise RedirectError(
            'listeners: none takes redirected connections; write outbound: {address: "127.0.0.1:15001", '
            "original_destination: true}"
        )
    networks: list[str] = []
    for text in skip_networks:
        try:
            networks.append(str(ip_network(text, strict=False)))
        except ValueError:
            raise RedirectError(f"--skip-network: {text} is not a network; write such as 10.0.0.0/8") from None
    v4, v6 = found.get(False), found.get(True)
    return Redirect(v4 and v4[1], v6 and v6[1], uid, tuple(dict.fromkeys(skip_ports)), tuple(dict.fromkeys(networks)))


def _family(name: str, address: ListenAddress) -> bool:
    """Return True for IPv6, False for IPv4.  Raises `RedirectError` for an address that redirection does not reach."""
    if address.host in V4_HOSTS:
        return False
    if address.host in V6_HOSTS:
        return True
    raise RedirectError(
        f"listeners.{name}.address: is {address}, but the kernel redirects to loopback; "
        f"write 127.0.0.1:{address.port} or [::1]:{address.port}"
    )


# ----- nftables


def nft_rules(redirect: Redirect) -> str:
    """Return the input of `nft -f -` that puts the rules in force, in place of earlier ones."""
    lines = [
        f"table inet {TABLE} {{",
        "  chain output {",
        "    type nat hook output priority -100; policy accept;",
        f"    meta skuid {redirect.uid} return",
        '    oifname "lo" return',
    ]
    for family, version in (("ip", 4), ("ip6", 6)):
        networks = [each for each in redirect.skip_networks if ip_network(each).version == version]
        if networks:
            lines.append(f"    {family} daddr {{ {', '.join(networks)} }} return")
    if redirect.skip_ports:
        lines.append(f"    tcp dport {{ {', '.join(map(str, redirect.skip_ports))} }} return")
    for family, port in (("ipv4", redirect.port), ("ipv6", redirect.port6)):
        if port is not None:
            lines.append(f"    meta nfproto {family} meta l4proto tcp redirect to :{port}")
    return "\n".join([*nft_removal(), *lines, "  }", "}", ""])


def nft_removal() -> list[str]:
    """Return the lines for `nft -f -` that remove the table, whether it is there or not."""
    return [f"add table inet {TABLE}", f"delete table inet {TABLE}"]


# ----- iptables


def iptables_commands(redirect: Redirect) -> list[list[str]]:
    """Return the commands that put the rules in force, in place of earlier ones."""
    commands = iptables_removal()
    for program, version, port in (("iptables", 4, redirect.port), ("ip6tables", 6, redirect.port6)):
        if port is None:
            continue
        nat = [program, "-w", "-t", "nat"]
        rule = [*nat, "-A", CHAIN]
        commands += [
            [*nat, "-N", CHAIN],
            [*rule, "-m", "owner", "--uid-owner", str(redirect.uid), "-j", "RETURN"],
            [*rule, "-o", "lo", "-j", "RETURN"],
        ]
        networks = [each for each in redirect.skip_networks if ip_network(each).version == version]
        commands += [[*rule, "-d", each, "-j", "RETURN"] for each in networks]
        commands += [[*rule, "-p", "tcp", "--dport", str(each), "-j", "RETURN"] for each in redirect.skip_ports]
        commands.append([*rule, "-p", "tcp", "-j", "REDIRECT", "--to-ports", str(port)])
        commands.append([*nat, "-A", "OUTPUT", "-p", "tcp", "-j", CHAIN])  # last: the chain is whole then
    return commands


def iptables_removal() -> list[list[str]]:
    """Return the commands that remove the rules; each fails if there is nothing to remove."""
    return [
        [program, "-w", "-t", "nat", *words]
        for program in ("iptables", "ip6tables")
        for words in (("-D", "OUTPUT", "-p", "tcp", "-j", CHAIN), ("-F", CHAIN), ("-X", CHAIN))
    ]


def iptables_script(redirect: Redirect) -> str:
    """Return the commands as a shell script."""
    removal = len(iptables_removal())
    commands = iptables_commands(redirect)
    lines = [f"{' '.join(each)} 2>/dev/null || true" for each in commands[:removal]]
    return "\n".join([*lines, *(" ".join(each) for each in commands[removal:]), ""])


# ----- running


def apply(redirect: Redirect, *, uses_iptables: bool) -> None:
    """Put the rules in force, in place of earlier ones.  Raises `RedirectError`."""
    if not uses_iptables:
        _run(["nft", "-f", "-"], nft_rules(redirect))
        return
    removal = len(iptables_removal())
    for number, command in enumerate(iptables_commands(redirect)):
        if number < removal:
            _remove(command)
        else:
            _run(command)


def undo(*, uses_iptables: bool) -> None:
    """Remove the rules, if there are any.  Raises `RedirectError`."""
    if uses_iptables:
        for command in iptables_removal():
            _remove(command)
    else:
        _run(["nft", "-f", "-"], "\n".join([*nft_removal(), ""]))


def _remove(command: list[str]) -> None:
    """Run a command that fails if there is nothing to remove; a program that is missing needs no removal."""
    if os.geteuid() != 0:
        raise RedirectError(_needs_right(command[0]))
    if shutil.which(command[0]) is not None:
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - built here


def _run(command: list[str], given: str = "") -> None:
    """Run a command with standard input.  Raises `RedirectError` if it is missing, not allowed or fails."""
    program = command[0]
    if shutil.which(program) is None:
        other = "give --iptables" if program == "nft" else "leave --iptables out"
        raise RedirectError(f"{program}: is not installed; install it, or {other}")
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)  # noqa: S603 - built here
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if "not permitted" in message or "ermission denied" in message:
            raise RedirectError(_needs_right(program))
        raise RedirectError(f"{program}: {message}; run it with the kernel's modules for NAT")


def _needs_right(program: str) -> str:
    return f"{program}: is not permitted; run it as root with the capability NET_ADMIN"
