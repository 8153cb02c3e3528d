"""Commands that say what policy files mean: `check`, `schema`, `test`, `routes`, `explain`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from sidecar.command_line import FAILURE, Failure, counted, describe_path_error, reject, suggest
from sidecar.commands.files import (
    PATH,
    compile_path,
    json_option,
    load_policies,
    load_sources,
    print_json,
    print_problems,
    read_headers,
    read_sources,
)
from sidecar.commands.group import main

if TYPE_CHECKING:
    from sidecar.control.compiler import Snapshot
    from sidecar.core.exchange import Exchange

MOST_TOKEN: Final = 128 * 1024
"""Most bytes of a token file that are read."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that the completion of `explain` offers."""
NAME_A_TEST: Final = "name a *.test.yaml file, or a directory that has some"


@main.command(
    examples=[
        ("sidecar check policies.yaml", "Print each problem with file, line and column."),
        ("sidecar check --json policies.yaml", "The same as one JSON document."),
    ]
)
@click.argument("path", type=PATH)
@json_option
def check(path: str, as_json: bool) -> None:
    """Print every problem in policy files.

    Warnings with a number such as R024 come from the rules of `sidecar lint`.
    The exit code is 1 if there is a problem.  Warnings do not fail.
    """
    from sidecar.lint.known import CHECK
    from sidecar.lint.run import lint as run_rules

    sources = read_sources(path, as_json=as_json)
    loaded = load_sources(sources)
    spec = loaded.spec
    findings = [each for each in run_rules(loaded, sources).findings if each.severity != "note"]
    plain = loaded.warnings if spec is None else [each.problem for each in findings if each.rule == CHECK]
    findings = [each for each in findings if each.rule != CHECK]
    if as_json:
        from sidecar.inspect.documents import problems_document

        print_json(problems_document(loaded.problems, plain, findings))
    else:
        from sidecar.config.report import visible

        warnings = [
            *plain,
            *(each.problem._replace(message=f"{each.rule}: {each.problem.message}") for each in findings),
        ]
        print_problems(loaded._replace(warnings=sorted(warnings, key=lambda each: each[:3])), err=False)
        if spec is not None:
            counts = (
                counted(len(spec.routes), "route"),
                counted(len(spec.upstreams), "upstream"),
                counted(len(spec.listeners), "listener"),
            )
            click.echo(visible(f"{path}: ok, {', '.join(counts)}"))
    sys.exit(FAILURE if spec is None else 0)


@main.command(examples=[("sidecar schema > schema.json", "Save it for an editor.")])
def schema() -> None:
    """Print the JSON Schema of policy files."""
    from sidecar.config.schema import text

    click.echo(text(), nl=False)


@main.command(
    "test",
    examples=[
        ("sidecar test policies.test.yaml", "Run the tests of a file."),
        ("sidecar test -k retry .", "Run the tests below a directory with `retry` in their names."),
    ],
)
@click.argument("path", type=PATH)
@click.option("-k", "words", multiple=True, metavar="WORD", help="Run only tests with this word in their names.")
def run_tests(path: str, words: tuple[str, ...]) -> None:
    """Run the tests of policies, in virtual time.

    PATH is a *.test.yaml file, or a directory that is searched for them.  The exit code is 1 if a test fails.
    """
    from sidecar.policytest.run import Unusable, find, run_file

    passed = failed = 0
    try:
        for file in find(path):
            try:
                for result in run_file(file, os.environ, words):
                    passed += result.passed
                    failed += not result.passed
                    click.echo(f"{'ok  ' if result.passed else 'FAIL'}  {result.mark}  {result.name}")
                    for difference in result.differences:
                        click.echo(f"      {difference}")
            except Unusable as error:
                failed += 1
                click.echo(str(error))
    except OSError as error:
        raise Failure(describe_path_error(error, NAME_A_TEST)) from None
    if words and not passed + failed:
        raise Failure(f"{path}: no test has {' or '.join(f'`{word}`' for word in words)} in its name; try another -k")
    click.echo(f"{counted(passed, 'test')} passed" + (f", {failed} failed" if failed else ""))
    sys.exit(FAILURE if failed else 0)


@main.command(
    examples=[
        ("sidecar routes policies.yaml", "Print each route with its stages."),
        ("sidecar routes --json policies.yaml", "Print the same as one JSON document."),
    ]
)
@click.argument("path", type=PATH)
@json_option
def routes(path: str, as_json: bool) -> None:
    """Print each route with its stages.

    The stages are those that would run, the outermost first, each with what the files say and the place.
    """
    snapshot = compile_path(path, as_json=as_json)
    if as_json:
        from sidecar.inspect.explain_json import routes_document

        print_json(routes_document(snapshot))
    else:
        from sidecar.inspect.explain import routes_text

        click.echo(routes_text(snapshot), nl=False)


def complete_method(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the methods that begin with what is typed."""
    return [method for method in METHODS if method.startswith(incomplete.upper())]


@main.command(
    examples=[
        ("sidecar explain policies.yaml GET /orders/17", "Explain a request without a host."),
        (
            "sidecar explain policies.yaml GET http://orders/orders/17 -H 'x-tier: gold'",
            "Explain a request with a host and a header.",
        ),
        ("sidecar explain --json policies.yaml GET /orders/17", "Print one JSON document."),
    ]
)
@click.argument("path", type=PATH)
@click.argument("method", shell_complete=complete_method)
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the request.")
@click.option(
    "--listener", metavar="NAME", help="Listener that gets the request; by default `inbound`, or the only one."
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="File with a token or an API key; tells who accepts it (`-` for standard input).",
)
@click.option("--client", metavar="ADDRESS", help="IP address of the client, for rules on networks.")
@json_option
def explain(
    path: str,
    method: str,
    url: str,
    headers: tuple[str, ...],
    listener: str | None,
    token_file: str | None,
    client: str | None,
    as_json: bool,
) -> None:
    """Print which route a request takes, and why.

    Each value in force is printed with its file and line.
    URL is absolute (http://orders/orders/17), or a path for a request without a host, or * for OPTIONS.
    """
    from sidecar.downstream.request_head import remove_dot_segments
    from sidecar.grpc.web import become_call
    from sidecar.inspect.explain import RequestError, exchange_of, explain_text

    snapshot = compile_path(path, as_json=as_json)
    known = list(snapshot.listeners)
    if listener is None:
        if "inbound" not in known and len(known) > 1:
            reject("--listener", f"is missing; name one of {', '.join(known)}")
        listener = "inbound" if "inbound" in known else known[0]
    elif listener not in known:
        reject("--listener", f"there is no listener `{listener}`; {suggest(listener, known)}")
    pairs = read_headers(headers)
    try:
        x = exchange_of(method, url, pairs, snapshot.spec.limits)
    except RequestError as error:
        reject(error.part, str(error))
    x.path = remove_dot_segments(x.path)
    if snapshot.spec.listeners[listener].grpc_web:
        become_call(x)
    x.client_address = "" if client is None else parse_client(client)
    about_token = None if token_file is None else explain_token(path, snapshot, listener, x, token_file)
    if as_json:
        from sidecar.inspect.explain_json import explain_document

        print_json(explain_document(snapshot, listener, x, about_token))
    else:
        click.echo(explain_text(snapshot, listener, x, about_token or ()), nl=False)


def parse_client(address: str) -> str:
    """Return the address of `--client`, or end the command."""
    from ipaddress import ip_address

    try:
        return str(ip_address(address))
    except ValueError:
        reject("--client", f"`{address}` is not an IP address; write it such as 10.0.0.1")


def explain_token(path: str, snapshot: Snapshot, listener: str, x: Exchange, token_file: str) -> list[str]:
    """Return sentences that say which identities accept the token of a file; set the caller of the request."""
    from sidecar.core.env import system_time
    from sidecar.inspect.explain import matched
    from sidecar.inspect.explain_token import caller_of, token_text

    try:
        with click.open_file(token_file, "rb") as file:
            token = file.read(MOST_TOKEN).strip()
    except OSError as error:
        reject("--token-file", f"`{token_file}` cannot be read: {error.strerror}")
    route = matched(snapshot, listener, x)
    if route is None:
        return []
    spec = load_policies(path)
    found = next(each for each in spec.routes if each.name == route.name)
    now = system_time()
    x.caller = caller_of(spec, found, token, now)
    return list(token_text(spec, found, token, now))
