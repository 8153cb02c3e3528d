"""Unusual inputs of `check`, `routes` and `explain`: each gives one clear message and the right exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main

GOOD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
routes: [{name: r, match: {path_prefix: /a}, upstream: app}]
"""
COMMANDS = {"check": (), "routes": (), "explain": ("GET", "/a")}
NAME_ONE = "name a policy file, or a directory with *.yaml files"


def run(command: str, path: str, *options: str) -> Result:
    return CliRunner().invoke(main, [command, path, *COMMANDS[command], *options])


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def empty_directory(here: Path) -> Path:
    return directory(here / "d")


def policies_missing(here: Path) -> Path:
    path = directory(here / "d")
    (path / "x.test.yaml").touch()
    (path / ".hidden.yaml").write_text(GOOD)
    return path


def subdirectory(here: Path) -> Path:
    path = directory(here / "d")
    (path / "x.yaml").mkdir()
    return path


def link_loop(here: Path) -> Path:
    (here / "a.yaml").symlink_to("b.yaml")
    (here / "b.yaml").symlink_to("a.yaml")
    return here / "a.yaml"


def link_loop_in_directory(here: Path) -> Path:
    path = directory(here / "d")
    link_loop(path)
    (path / "c.yaml").write_text(GOOD)
    return path


def dangling_link(here: Path) -> Path:
    path = directory(here / "d")
    (path / "a.yaml").write_text(GOOD)
    (path / "z.yaml").symlink_to("nowhere")
    return path


def content(text: bytes) -> Callable[[Path], Path]:
    def make(here: Path) -> Path:
        path = here / "p.yaml"
        path.write_bytes(text)
        return path

    return make


SPECIAL_STATUSES = {
    "no such file": (lambda here: here / "p.yaml", "{path}: No such file or directory; " + NAME_ONE),
    "a file in a file": (
        lambda here: content(b"")(here) / "x.yaml", "{path}: Not a directory; " + NAME_ONE,
    ),
    "a name that is too long": (lambda here: here / ("a" * 300), "{path}: File name too long; " + NAME_ONE),
    "an empty directory": (empty_directory, "{path}: the directory has no *.yaml or *.yml file; " + NAME_ONE),
    "a directory of tests": (policies_missing, "{path}: the directory has no *.yaml or *.yml file; " + NAME_ONE),
    "a directory with the name of a file": (
        subdirectory, "{path}: the directory has no *.yaml or *.yml file; " + NAME_ONE,
    ),
    "links in a circle": (link_loop, "{path}: Too many levels of symbolic links; let the link lead to a file"),
    "links in a circle in a directory": (
        link_loop_in_directory, "{path}/a.yaml: Too many levels of symbolic links; let the link lead to a file",
    ),
    "a link that leads nowhere": (dangling_link, "{path}/z.yaml: the link leads nowhere; let it lead to a file"),
    "an empty file": (
        content(b""),
        "{path}:1:1: holds no policies; begin with `version: 1`, then listeners, upstreams and routes",
    ),
    "a binary file": (content(b"\x7fELF\xff\xfe"), "{path}:1:5: is not UTF-8 text; save the file as UTF-8"),
    "UTF-16": (content(GOOD.encode("utf-16")), "{path}:1:1: is not UTF-8 text; save the file as UTF-8"),
    "zeros": (
        content(bytes(9)),
        "{path}:1:1: has the control character U+0000; remove it, or write it as an escape in quotes",
    ),
    "a huge file": (
        content(GOOD.encode() + b"# comment\n" * 2**17),
        "{path}:1:1: is larger than 1 MiB; split it into several files of one directory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", SPECIAL_STATUSES)
def test_an_unusable_file_is_one_message_and_exit_code_1(name: str, command: str, tmp_path: Path) -> None:
    make, message = SPECIAL_STATUSES[name]
    path = make(tmp_path)
    wanted = message.replace("{path}", str(path))
    result = run(command, str(path))
    assert result.exit_code == 1, result.output
    assert result.output.removesuffix("1 problem, 0 warnings\n") == wanted + "\n"
    with_json = run(command, str(path), "--json")
    assert (with_json.exit_code, with_json.stderr) == (1, "")
    (problem,) = json.loads(with_json.stdout)["problems"]
    place = ":1:" if ":1:" in wanted else ": "
    assert wanted.startswith(problem["file"] + place)
    assert wanted.endswith(f": {problem['message']}")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_may_not_be_read_is_one_message(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = content(GOOD.encode())(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        result = run(command, str(path))
    message = "Permission denied; let the user of this command read it\n"
    assert (result.exit_code, result.output) == (1, f"{path}: {message}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        result = run(command, str(tmp_path))
    assert (result.exit_code, result.output) == (1, f"{tmp_path}: {message}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_without_permission_is_one_message(command: str, tmp_path: Path) -> None:
    path = content(GOOD.encode())(tmp_path)
    path.chmod(0)
    result = run(command, str(path))
    assert (result.exit_code, "Permission denied; let the user" in result.output) == (1, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_path_is_a_wrong_command_line(command: str) -> None:
    result = run(command, "")
    message = f"sidecar {command}: PATH: is empty; name a file or a directory\n"
    assert (result.exit_code, result.output) == (2, message)


def test_a_name_with_control_characters_is_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "new\nline.yaml"
    path.write_text(GOOD)
    assert run("check", str(path)).output == f"{tmp_path}/new\\nline.yaml: ok, 1 route, 1 upstream, 1 listener\n"
    path.write_text("version: 2")
    assert f"{tmp_path}/new\\nline.yaml:1:10: version: " in run("check", str(path)).output
    path.unlink()
    assert run("routes", str(path)).output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("", "/"), "METHOD: `` is not a method; write one such as GET"),
        (("GE T", "/"), "METHOD: `GE T` is not a method; write one such as GET"),
        (("GET\n", "/"), "METHOD: `GET\\n` is not a method; write one such as GET"),
        (("GET", ""), "URL: `` is not a URL; write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "*"), "URL: `*` is not a URL; write it such as http://orders/orders/17 or /orders/17"),
        (("options", "*"), "URL: `*` is not a URL; write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "ftp://a/"), "URL: `ftp://a/` is not a URL; write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "http:///x"), "URL: `http:///x` is not a URL; write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "http://@/x"), "URL: `` is not a host; write a name or an address, and a port if there is one"),
        (("GET", "http://a:b/"), "URL: `a:b` is not a host; write a name or an address, and a port if there is one"),
        (("GET", "http://[::1/"), "URL: `[::1` is not a host; write a name or an address, and a port if there is one"),
        (("GET", "/a b"), "URL: has the byte 0x20, which no URL has; write %20"),
        (("GET", "/a\nb"), "URL: has the byte 0x0A, which no URL has; write %0A"),
        (("GET", "/é"), "URL: has the byte 0xC3, which no URL has; write %C3"),
        (("GET", "/\udcff"), "URL: has the byte 0xFF, which no URL has; write %FF"),
        (("GET", "/", "-H", ": x"), "--header: the header `` is not valid; write -H 'name: value' on one line"),
        (("GET", "/", "-H", "a b: x"), "--header: the header `a b` is not valid; write -H 'name: value' on one line"),
        (("GET", "/", "-H", "a: x\ny"), "--header: the header `a` is not valid; write -H 'name: value' on one line"),
        (("GET", "/", "-H", "host: b c"), "--header: `b c` is not a host; write a name or an address, and a port if"),
        (
            ("GET", f"/{'a' * 40000}"),
            "URL: the head of the request has 40026 bytes, more than `limits.max_header_bytes` (32",
        ),
        (
            ("GET", "/", "-H", f"x: {'a' * 40000}"),
            "--header: the head of the request has 40031 bytes, more than `limits.",
        ),
        (("GET", f"/?{'&' * 1024}"), "URL: the query has more than 1024 parameters; a listener answers 414"),
        (("GET", "/", *["-H", "x: y"] * 257), "--header: there are more than 256 fields; a listener answers 431"),
        (("GET", "/", "--listener", ""), "--listener: there is no listener ``; known are inbound"),
    ],
)
def test_what_is_no_request_is_a_wrong_command_line(arguments: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    path = content(GOOD.encode())(tmp_path)
    result = CliRunner().invoke(main, ["explain", str(path), *arguments])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert result.stderr.startswith(f"sidecar explain: {problem}")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("/a#part", "GET /a for no host on inbound"),
        ("/a?", "GET /a? for no host on inbound"),
        ("//x/y", "GET //x/y for no host on inbound"),
        ("HTTP://me:secret@X.example:80/a?b#c", "GET /a?b for X.example:80 on inbound"),
        ("https://[::1]/a", "GET /a for [::1] on inbound"),
        ("http://x", "GET / for x on inbound"),
        ("/a%zz", "GET /a%zz for no host on inbound"),
    ],
)
def test_an_unusual_url_is_parsed_as_by_a_listener(url: str, line: str, tmp_path: Path) -> None:
    path = content(GOOD.encode())(tmp_path)
    result = CliRunner().invoke(main, ["explain", str(path), "GET", url])
    assert (result.exit_code, result.output.splitlines()[0]) == (0, line)


@pytest.mark.parametrize("url", ["*", "http://x"])
def test_options_for_the_whole_server_is_answered_by_the_listener(url: str, tmp_path: Path) -> None:
    path = content(GOOD.encode())(tmp_path)
    result = CliRunner().invoke(main, ["explain", str(path), "OPTIONS", url])
    assert result.exit_code == 0
    assert "takes no route: inbound itself answers a request about the server as a whole (200)" in result.output
    found = json.loads(CliRunner().invoke(main, ["explain", "--json", str(path), "OPTIONS", url]).output)
    assert found["refusal"]["status"] == 200


def test_the_head_may_be_as_large_as_the_limit_allows(tmp_path: Path) -> None:
    path = content(GOOD.encode() + b"limits: {max_header_bytes: 256B}\n")(tmp_path)
    head = len("GET /a HTTP/1.1\r\nhost: \r\nx: \r\n\r\n")
    for size, code in ((256, 0), (257, 2)):
        result = CliRunner().invoke(main, ["explain", str(path), "GET", "/a", "-H", f"x: {'y' * (size - head)}"])
        assert result.exit_code == code, result.output


def test_no_such_route_is_an_answer(tmp_path: Path) -> None:
    path = content(GOOD.encode())(tmp_path)
    result = CliRunner().invoke(main, ["explain", str(path), "GET", "/b"])
    assert result.exit_code == 0
    assert "takes no route: no route of inbound matches (404)" in result.output
