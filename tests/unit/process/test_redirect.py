"""Tests of the kernel's rules for redirected connections: text, mistakes and missing rights."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from sidecar.process import redirect
from sidecar.process.redirect import Redirect, RedirectError

V4 = 'outbound: {address: "127.0.0.1:15001", original_destination: true}'
V6 = 'outbound6: {address: "[::1]:15006", original_destination: true}'


def spec_of(*listeners: str) -> PolicySpec:
    text = f"version: 1\nlisteners: {{{', '.join(listeners)}}}\n"
    loaded = load([Source("p.yaml", text.encode())], {})
    assert loaded.spec is not None, loaded.problems
    return loaded.spec


def test_a_plan_has_the_ports_of_each_family() -> None:
    assert redirect.plan(spec_of(V4, V6), 7) == Redirect(15001, 15006, 7)
    assert redirect.plan(spec_of(V4), 7, (22, 22), ("10.1.2.3/8",)) == Redirect(15001, None, 7, (22,), ("10.0.0.0/8",))


@pytest.mark.parametrize(
    ("listeners", "networks", "message"),
    [
        (['inbound: {address: "127.0.0.1:1"}'], (), "none takes redirected connections"),
        (['a: {address: "127.0.0.1:0", original_destination: true}'], (), "port 0"),
        (['a: {address: "10.0.0.1:1", original_destination: true}'], (), "redirects to loopback"),
        ([V4, 'a: {address: "127.0.0.1:1", original_destination: true}'], (), "as outbound does"),
        ([V4], ("10.0.0.0/99",), "is not a network"),
    ],
)
def test_mistakes_are_told(listeners: list[str], networks: tuple[str, ...], message: str) -> None:
    with pytest.raises(RedirectError, match=message):
        redirect.plan(spec_of(*listeners), 7, (), networks)


def test_exemptions_stand_before_the_redirection() -> None:
    rules = redirect.nft_rules(Redirect(15001, None, 7, (22, 25), ("10.0.0.0/8", "fd00::/8")))
    lines = [line.strip() for line in rules.splitlines()]
    assert lines[:2] == redirect.nft_removal()
    assert lines[5:] == [
        "meta skuid 7 return",
        'oifname "lo" return',
        "ip daddr { 10.0.0.0/8 } return",
        "ip6 daddr { fd00::/8 } return",
        "tcp dport { 22, 25 } return",
        "meta nfproto ipv4 meta l4proto tcp redirect to :15001",
        "}",
        "}",
    ]
    commands = redirect.iptables_script(Redirect(15001, 15006, 7, (22,), ("fd00::/8",))).splitlines()
    assert [line for line in commands if "REDIRECT" in line] == [
        "iptables -w -t nat -A SIDECAR_CAPTURE -p tcp -j REDIRECT --to-ports 15001",
        "ip6tables -w -t nat -A SIDECAR_CAPTURE -p tcp -j REDIRECT --to-ports 15006",
    ]
    assert "ip6tables -w -t nat -A SIDECAR_CAPTURE -d fd00::/8 -j RETURN" in commands
    assert commands.index("iptables -w -t nat -A SIDECAR_CAPTURE -m owner --uid-owner 7 -j RETURN") < commands.index(
        "iptables -w -t nat -A SIDECAR_CAPTURE -p tcp -j REDIRECT --to-ports 15001"
    )


def _failing(message: str) -> Any:
    return lambda *_, **__: subprocess.CompletedProcess([], 1, "", message)


def test_a_missing_program_or_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RedirectError, match="nft: is not installed; install it, or give --iptables"):
        redirect.undo(uses_iptables=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(subprocess, "run", _failing("Operation not permitted (you must be root)"))
    with pytest.raises(RedirectError, match="nft: is not permitted; run it as root with the capability NET_ADMIN"):
        redirect.apply(Redirect(1, None, 7), uses_iptables=False)
    monkeypatch.setattr(subprocess, "run", _failing("Error: syntax error"))
    with pytest.raises(RedirectError, match="nft: Error: syntax error"):
        redirect.apply(Redirect(1, None, 7), uses_iptables=False)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    with pytest.raises(RedirectError, match="iptables: is not permitted"):
        redirect.undo(uses_iptables=True)


def test_the_command_prints_rules_and_names_the_file_of_a_mistake(tmp_path: Any) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nlisteners: {{{V4}}}\n")
    done = CliRunner().invoke(main, ["capture", "--uid", "7", "--skip-port", "22", str(path)])
    assert (done.exit_code, "meta skuid 7 return" in done.output) == (0, True)
    done = CliRunner().invoke(main, ["capture", "--iptables", str(path)])
    assert "--uid-owner 65532" in done.output
    path.write_text('version: 1\nlisteners: {a: {address: "127.0.0.1:1"}}\n')
    done = CliRunner().invoke(main, ["capture", str(path)], standalone_mode=False)
    assert str(path) in str(done.exception)
    assert "none takes redirected connections" in str(done.exception)
    done = CliRunner().invoke(main, ["capture", "--apply", "--undo", str(path)], standalone_mode=False)
    assert "--undo" in str(done.exception)
