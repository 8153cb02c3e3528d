"""Policy files as commands read them, and documents as they print them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sidecar.command_line import FAILURE, Failure, InputPath, counted, describe_path_error, reject

if TYPE_CHECKING:
    from sidecar.config.files import Source
    from sidecar.config.load import Loaded
    from sidecar.config.spec import PolicySpec
    from sidecar.control.compiler import Snapshot
    from sidecar.core.spec import Problem

PATH: Final = InputPath()
NAME_A_POLICY: Final = "name a policy file, or a directory with *.yaml files"
token_option: Final = click.option(
    "--token", envvar="SIDECAR_ADMIN_TOKEN", help="Token of the admin listener; better given by SIDECAR_ADMIN_TOKEN."
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def tcp_address(name: str, address: str) -> tuple[str, int]:
    """Return host and port of an admin listener.  Anything else is a mistake in the argument or option `name`."""
    from sidecar.config.listen_address import parse_listen_address

    try:
        host, port, path = parse_listen_address(address)
    except ValueError as error:
        reject(name, f"`{address}` {error}")
    if path:
        reject(name, f"`{address}` is a Unix socket, which this command cannot read; give the admin listener a port")
    return host, port


def compile_path(path: str, *, as_json: bool) -> Snapshot:
    """Return the compiled policies of a path.  Problems are printed, and end the command."""
    from sidecar.control.compiler import CompileError
    from sidecar.inspect.dry import compile_dry

    try:
        return compile_dry(load_policies(path, as_json=as_json))
    except CompileError as error:
        if as_json:
            fail_with_json(error.problems)
        from sidecar.config.report import visible

        raise Failure("\n".join(visible(str(problem)) for problem in error.problems)) from None


def load_policies(path: str, *, as_json: bool = False) -> PolicySpec:
    """Return the policies of a path.  Problems are printed, and end the command."""
    loaded = read_policies(path, as_json=as_json)
    if loaded.spec is None:
        if as_json:
            fail_with_json(loaded.problems, loaded.warnings)
        print_problems(loaded)
        sys.exit(FAILURE)
    return loaded.spec


def read_policies(path: str, *, as_json: bool) -> Loaded:
    """Return the policies of a path with their problems.  A path that cannot be read ends the command."""
    return load_sources(read_sources(path, as_json=as_json))


def load_sources(sources: Sequence[Source]) -> Loaded:
    """Return the policies of files with their problems."""
    from sidecar.config.load import load

    return load(sources, os.environ)


def read_sources(path: str, *, as_json: bool) -> list[Source]:
    """Return the files of a path.  A path that cannot be read ends the command."""
    from sidecar.config import files

    try:
        return files.read(path)
    except OSError as error:
        if as_json:
            from sidecar.core.spec import Problem

            file = error.filename or path
            message = describe_path_error(error, NAME_A_POLICY).removeprefix(f"{file}: ")
            fail_with_json([Problem(file, 1, 1, "", message)])
        raise Failure(describe_path_error(error, NAME_A_POLICY)) from None


def fail_with_json(errors: Iterable[Problem], warnings: Iterable[Problem] = ()) -> NoReturn:
    """Print the document of problems, and end the command."""
    from sidecar.inspect.documents import problems_document

    print_json(problems_document(errors, warnings))
    sys.exit(FAILURE)


def print_problems(loaded: Loaded, *, err: bool = True) -> None:
    """Print problems and warnings: `file:line:column: key.path: what is wrong, and what would be right`."""
    from sidecar.config.report import visible

    for problem in loaded.problems:
        click.echo(visible(str(problem)), err=err)
    for problem in loaded.warnings:
        click.echo(visible(str(problem._replace(message=f"warning: {problem.message}"))), err=err)
    if loaded.problems:
        counts = counted(len(loaded.problems), "problem"), counted(len(loaded.warnings), "warning")
        click.echo(", ".join(counts), err=err)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2))


def read_headers(headers: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and values of the options `-H`, as they are written; one without a colon ends the command."""
    pairs = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            reject("--header", f"`{header}` has no colon; write -H 'name: value'")
        pairs.append((name, value))
    return pairs


def write_new(output: str, content: str) -> None:
    """Write a file that is not there yet."""
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise Failure(f"{output}: is there already; name a new file") from None
    except OSError as error:
        raise Failure(f"{output}: {error.strerror}; name a file that can be written") from None


def open_binary(path: str) -> bytes:
    """Return the content of a file; one that cannot be read ends the command."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; name a file that can be read") from None
