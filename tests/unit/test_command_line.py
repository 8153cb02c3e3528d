"""Voice of the command lines: problems on one line, examples that work, completion that a shell can use."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from chaos.cli import main as chaos
from sidecar.command_line import Command, Program
from sidecar.commands import main as sidecar
from tests.support.process import COMMAND

ROOT = Path(__file__).parents[2]
PROGRAMS = {"sidecar": sidecar, "chaos": chaos}
COMMANDS = [(program, name) for program, group in PROGRAMS.items() for name in sorted(group.commands)]
POLICIES = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}, outbound: {address: "127.0.0.1:8081"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
routes: [{name: r, upstream: app}]
"""
TESTS = """\
tests: [{name: a retry, listener: inbound, request: {path: /}, upstream: [200], expect: {answer: {status: 200}}}]
"""


def run(program: str, *arguments: str) -> Result:
    return CliRunner().invoke(PROGRAMS[program], arguments)


def examples_of(group: Program) -> list[str]:
    members = [each for each in group.commands.values() if isinstance(each, Command)]
    return [text for each in (group, *members) for text, _ in each.examples]


WRONG = [
    ("sidecar chek", "sidecar: chek: is not a command; did you mean `check`?"),
    ("sidecar --vrsion", "sidecar: --vrsion: is not an option; did you mean `--version`?"),
    ("sidecar check", "sidecar check: PATH: is missing; write `sidecar check [OPTIONS] PATH`"),
    ("sidecar check --jsn p", "sidecar check: --jsn: is not an option; did you mean `--json`?"),
    ("sidecar check -x p", "sidecar check: -x: is not an option; known are --help, --json, -h"),
    ("sidecar check --json=yes p", "sidecar check: --json: takes no value; write it alone"),
    ("sidecar check p q", "sidecar check: q: is one argument too many; write `sidecar check [OPTIONS] PATH`"),
    ("sidecar explain p GET / --listener", "sidecar explain: --listener: needs a value; write `--listener NAME`"),
    ("sidecar demo shp", "sidecar demo: WHICH: `shp` is not a choice; did you mean `shop`?"),
    ("sidecar completion ksh", "sidecar completion: SHELL: `ksh` is not a choice; did you mean `zsh`?"),
    ("sidecar top nowhere", "sidecar top: ADDRESS: `nowhere` is not an address; write it such as"),
    ("sidecar top unix:/a", "sidecar top: ADDRESS: `unix:/a` is a Unix socket, which this command cannot read; give"),
    ("chaos simulat", "chaos: simulat: is not a command; did you mean `simulate`?"),
    ("chaos run --arm envoi", "chaos run: --arm: `envoi` is not a choice; did you mean `envoy`?"),
    (
        "chaos run --repeat 30",
        "chaos run: --repeat: 30 is not in the range 1<=x<=20; write a whole number from 1 to",
    ),
    ("chaos simulate --seed x", "chaos simulate: --seed: 'x' is not a valid integer; write a whole number"),
    (
        "chaos replay nowhere",
        "chaos replay: RECORDING: File 'nowhere' does not exist; name a file that can be read",
    ),
    ("chaos simulate --arm envoy", "chaos simulate: --arm: Envoy does not run in virtual time; use `chaos run"),
]
"""Wrong command lines, each with the beginning of what is printed."""


@pytest.mark.parametrize(("line", "problem"), WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(line: str, problem: str) -> None:
    program, *arguments = line.split()
    result = run(program, *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert result.stderr.startswith(problem)


@pytest.mark.parametrize(
    ("which", "name", "value", "highest"),
    [
        ("trial", "DEMO_PORT", "x", 65535),
        ("trial", "DEMO_ADMIN_PORT", "0", 65535),
        ("trial", "DEMO_SERVICE_PORT", "65533", 65532),
        ("shop", "SHOP_PORT", "9" * 5000, 65436),
        ("shop", "SHOP_PORT", "", 65436),
    ],
)
def test_a_port_that_is_none_is_a_wrong_command_line(
    which: str, name: str, value: str, highest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = run("sidecar", "demo", which)
    problem = f"sidecar demo: {name}: `{value}` is not a port; write a number from 1 to {highest}\n"
    assert (result.exit_code, result.output) == (2, problem)


def test_the_page_shows_what_is_printed() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    shown = re.findall(r"^sidecar[a-z ]*: .*$", page, re.MULTILINE)
    assert len(shown) == 3
    assert set(shown) <= {problem for _, problem in WRONG}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_without_a_command_prints_its_help(program: str) -> None:
    result = run(program)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == run(program, "--help").stdout


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_each_command_has_a_short_help_and_an_example(program: str, name: str) -> None:
    command = PROGRAMS[program].commands[name]
    assert isinstance(command, Command | Program)
    assert command.examples
    assert not command.get_short_help_str(60).endswith("...")
    result = run(program, name, "--help")
    assert result.exit_code == 0
    for text, what in command.examples:
        assert f"\n  # {what}\n  {text}\n" in result.stdout
        assert f"{program} {name}" in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_option_is_described(program: str) -> None:
    group = PROGRAMS[program]
    for command in group.commands.values():
        for param in command.params:
            assert not isinstance(param, click.Option) or param.help, (command.name, param.name)


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_right(program: str) -> None:
    """Each example is read as a command line; none of them runs here."""
    for text in examples_of(PROGRAMS[program]):
        words = shlex.split(text.partition(" > ")[0].removeprefix('eval "$(').removesuffix(')"'))
        words = [word for word in words if "=" not in word or word.startswith("-")]
        assert words[0] == program, text
        if words[1] == "replay":  # its recording has to be there
            words = [word.replace("recording.json", __file__) for word in words]
        group = PROGRAMS[program]
        group.commands[words[1]].make_context(words[1], words[2:]).close()


def test_examples_that_only_read_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies.yaml").write_text(POLICIES)
    (tmp_path / "policies.test.yaml").write_text(TESTS)
    monkeypatch.chdir(tmp_path)
    ran = set()
    for text in examples_of(sidecar):
        words = shlex.split(text.partition(" > ")[0])
        if words[1] in ("check", "routes", "explain", "schema", "test"):
            result = run("sidecar", *words[1:])
            assert result.exit_code == 0, (text, result.output)
            ran.add(words[1])
    assert len(ran) == 5


@pytest.fixture
def environment() -> dict[str, str]:
    """Environment in which a shell finds the installed commands."""
    return {**os.environ, "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"}


def script(program: str, shell: str, environment: dict[str, str], path: Path) -> Path:
    """Write the completion script that an installed command prints; return its path."""
    found = subprocess.run([program, "completion", shell], env=environment, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    path.write_text(found.stdout)
    return path


def shell_says(shell: str, options: list[str], code: str, environment: dict[str, str]) -> list[str]:
    """Return the lines that a shell prints."""
    binary = shutil.which(shell)
    if binary is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([binary, *options, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sidecar", "che"], ["check"]),
        (["sidecar", "check", "--j"], ["--json"]),
        (["sidecar", "explain", "p.yaml", "P"], ["POST", "PUT", "PATCH"]),
        (["sidecar", "demo", ""], ["trial", "shop"]),
        (["sidecar", "completion", "z"], ["zsh"]),
        (["chaos", "re"], ["replay"]),
        (["chaos", "run", "--arm", "b"], ["bare", "both"]),
    ],
)
def test_bash_completes(words: list[str], offered: list[str], tmp_path: Path, environment: dict[str, str]) -> None:
    program = words[0]
    path = script(program, "bash", environment, tmp_path / "script")
    code = f"""
        source {path}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        complete -p {program} > /dev/null || exit 1
        _{program}_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    assert shell_says("bash", ["--norc"], code, environment) == offered


@pytest.mark.parametrize("command", ["run", "check", "routes", "explain", "test"])
def test_a_shell_completes_paths(command: str, environment: dict[str, str]) -> None:
    asked = {"COMP_WORDS": f"sidecar {command} poli", "COMP_CWORD": "2", "_SIDECAR_COMPLETE": "bash_complete"}
    done = subprocess.run(["sidecar"], env=environment | asked, capture_output=True, text=True, check=True)
    assert done.stdout == "file,poli\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh_takes_the_script(program: str, tmp_path: Path, environment: dict[str, str]) -> None:
    path = script(program, "zsh", environment, tmp_path / "script")
    code = f"autoload -U compinit; compinit -D -u; source {path}; print ${{_comps[{program}]}}"
    assert shell_says("zsh", ["-f"], code, environment) == [f"_{program}_completion"]


@pytest.mark.parametrize(("program", "word", "offered"), [("sidecar", "che", "check"), ("chaos", "re", "replay")])
def test_fish_completes(program: str, word: str, offered: str, tmp_path: Path, environment: dict[str, str]) -> None:
    path = script(program, "fish", environment, tmp_path / "script")
    code = f"source {path}; complete -C '{program} {word}'"
    assert shell_says("fish", ["--no-config"], code, environment)[0] == offered


def test_help_and_completion_load_click_alone(environment: dict[str, str]) -> None:
    code = (
        "import sys, chaos.cli, sidecar.commands; "
        "print({'pydantic', 'yaml', 'aiohttp', 'asyncio', 'difflib'} & {*sys.modules})"
    )
    done = subprocess.run(
        [str(COMMAND.with_name("python")), "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
