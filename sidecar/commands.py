"""Commands of `sidecar`: run, check, schema, test, routes, explain, top, demo.

Each command imports what it needs when it runs, so that `--help` and `--version` answer at once and `check` does not
load the data plane.  Exit codes: 0 success, 1 the policies have problems, 2 the command line is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sized
from typing import TYPE_CHECKING

import click

from sidecar import __version__
from sidecar.engine.build import describe_build

if TYPE_CHECKING:
    from sidecar.config.load import Loaded
    from sidecar.config.spec import PolicySpec
    from sidecar.control.compiler import Snapshot


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__} ({describe_build()})", prog_name="sidecar", message="%(prog)s %(version)s")
def main() -> None:
    """A resilience sidecar: timeouts, retries, breakers and more for each route, from policy files.

    PATH is a policy file, or a directory whose *.yaml files are read together.
    """


@main.command("run")
@click.argument("path")
def serve(path: str) -> None:
    """Serve until SIGTERM; policy files are read again when they change."""
    from sidecar.process.interpreter import prepare_imports

    prepare_imports()
    from sidecar.app import run

    run(path)


@main.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for CI.")
def check(path: str, as_json: bool) -> None:
    """Find every problem in policy files; exit 1 if there is one.  Warnings do not fail."""
    loaded = read(path)
    spec = loaded.spec
    if as_json:
        found = [("error", problem) for problem in loaded.problems] + [("warning", each) for each in loaded.warnings]
        problems = [{"severity": severity, **problem._asdict()} for severity, problem in found]
        click.echo(json.dumps({"ok": spec is not None, "problems": problems}, indent=2))
    else:
        tell(loaded, err=False)
        if spec is not None:
            counts = (count(spec.routes, "route"), count(spec.upstreams, "upstream"), count(spec.listeners, "listener"))
            click.echo(f"{path}: ok, {', '.join(counts)}")
    sys.exit(0 if spec is not None else 1)


@main.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from sidecar.config.schema import text

    click.echo(text(), nl=False)


@main.command("test")
@click.argument("path")
@click.option("-k", "words", multiple=True, metavar="WORD", help="Only tests with this word in their names.")
def try_out(path: str, words: tuple[str, ...]) -> None:
    """Run policy tests: the examples in *.test.yaml files, in virtual time; exit 1 if one fails.

    PATH is a test file, or a directory of them and of such directories.
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
        raise click.ClickException(error.strerror or str(error)) from None
    if words and not passed + failed:
        raise click.ClickException(f"no test has {' or '.join(map(repr, words))} in its name")
    click.echo(f"{count(range(passed), 'test')} passed" + (f", {failed} failed" if failed else ""))
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("path")
def routes(path: str) -> None:
    """Show each route's chain of stages, outermost first, as it would run."""
    from sidecar.inspect.explain import routes_text

    click.echo(routes_text(compiled(path)), nl=False)


@main.command()
@click.argument("path")
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the request.")
@click.option("--listener", help="Where the request comes in; `inbound`, or the only one, unless given.")
def explain(path: str, method: str, url: str, headers: tuple[str, ...], listener: str | None) -> None:
    """Show which route a request takes and why, and each value in force with the file and line it comes from.

    URL is absolute (http://orders/orders/17), or a path for a request without a host.
    """
    from sidecar.downstream.request_head import remove_dot_segments
    from sidecar.inspect.explain import exchange_of, explain_text

    snapshot = compiled(path)
    known = list(snapshot.listeners)
    listener = listener or ("inbound" if "inbound" in known else known[0] if len(known) == 1 else None)
    if listener not in snapshot.listeners:
        raise click.UsageError(f"name one of the listeners with --listener: {', '.join(known)}")
    pairs = [(name, value) for name, colon, value in (header.partition(":") for header in headers) if colon]
    if len(pairs) < len(headers):
        raise click.UsageError("a header is written -H 'name: value'")
    try:
        x = exchange_of(method, url, pairs)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    x.path = remove_dot_segments(x.path)
    click.echo(explain_text(snapshot, listener, x), nl=False)


@main.command()
@click.argument("address", default="127.0.0.1:9901")
@click.option(
    "--token", envvar="SIDECAR_ADMIN_TOKEN", help="The admin listener's token; better left to SIDECAR_ADMIN_TOKEN."
)
@click.option("--once", is_flag=True, help="Print one screen and end.")
def top(address: str, token: str | None, once: bool) -> None:
    """Watch a running sidecar: traffic, breakers, endpoints, limits and refusals, as on its live page.

    ADDRESS is its admin listener.  The key q ends it.
    """
    from sidecar.config.listen_address import parse_listen_address

    try:
        from sidecar.top import run as screen
        from sidecar.top.stream import StreamError
    except ImportError:
        raise click.ClickException("this needs rich; pip install 'resilience-sidecar[top]'") from None
    try:
        host, port, path = parse_listen_address(address)
    except ValueError as error:
        raise click.UsageError(f"{address} {error}") from None
    if path:
        raise click.UsageError("a Unix socket cannot be watched; give the admin listener a port")
    try:
        (screen.once if once else screen.run)(host, port, token)
    except StreamError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        return


@main.command()
@click.argument("which", type=click.Choice(["trial", "shop"]), default="trial")
def demo(which: str) -> None:
    """Try the sidecar on this machine: start services and sidecars on loopback, until Ctrl-C.

    trial (the default): three services behind one sidecar; each policy is tried once.  Other ports: DEMO_PORT,
    DEMO_ADMIN_PORT, DEMO_SERVICE_PORT.  DEMO_ONCE=1 ends it after the trial.

    shop: four services that call each other, a sidecar beside each, customers, and trouble once a minute.  Other
    ports: SHOP_PORT.  SHOP_ONCE=1 ends it after one order.
    """
    if which == "shop":
        from sidecar.demo.shop.run import main as run
    else:
        from sidecar.demo.trial import main as run
    sys.exit(run())


def compiled(path: str) -> Snapshot:
    """Return the policies of a path as pipelines; if they have problems, these are printed and the command ends."""
    from sidecar.control.compiler import CompileError
    from sidecar.inspect.dry import compile_dry

    try:
        return compile_dry(policies(path))
    except CompileError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def read(path: str) -> Loaded:
    """Read policies; a path that cannot be read ends the command."""
    from sidecar.config import files
    from sidecar.config.load import load

    try:
        sources = files.read(path)
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from None
    return load(sources, os.environ)


def policies(path: str) -> PolicySpec:
    """Return the policies of a path; if they have problems, these are printed and the command ends."""
    loaded = read(path)
    if loaded.spec is None:
        tell(loaded)
        sys.exit(1)
    return loaded.spec


def tell(loaded: Loaded, *, err: bool = True) -> None:
    """Print problems and warnings: `file:line:column: key.path: what is wrong, and what would be right`."""
    for problem in loaded.problems:
        click.echo(str(problem), err=err)
    for problem in loaded.warnings:
        click.echo(str(problem._replace(message=f"warning: {problem.message}")), err=err)
    if loaded.problems:
        click.echo(f"{count(loaded.problems, 'problem')}, {count(loaded.warnings, 'warning')}", err=err)


def count(things: Sized, name: str) -> str:
    """Return a count with its noun: `1 route`, `2 routes`."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


if __name__ == "__main__":
    main(prog_name="sidecar")
