"""Commands of `sidecar`.  Their output for machines and their exit codes are in `docs/command-line.md`.

Rules:

1. Each command imports what it needs when it runs, so that `--help` and `--version` are quick and `check` does not load
   the data plane.
2. Results go to standard output.  Problems that keep a command from its result go to standard error.  With `--json`
   both are one document on standard output; only a mistake in the command line is not.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sidecar import __version__
from sidecar.command_line import (
    FAILURE,
    Choice,
    Failure,
    InputPath,
    Program,
    add_completion,
    counted,
    describe_path_error,
    reject,
    suggest,
)
from sidecar.engine.build import describe_build

if TYPE_CHECKING:
    from sidecar.config.files import Source
    from sidecar.config.load import Loaded
    from sidecar.config.spec import PolicySpec
    from sidecar.control.compiler import Snapshot
    from sidecar.core.exchange import Exchange
    from sidecar.core.spec import Problem
    from sidecar.lint.chain import Chain
    from sidecar.lint.run import Linted
    from sidecar.lint.traffic import TrafficSpec


MOST_TOKEN: Final = 128 * 1024
"""Most bytes of a token file that are read."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that the completion of `explain` offers."""
PATH: Final = InputPath()
MOST_MARGINS: Final = 10
"""Most routes of which `lint --deep` searches the margin."""
DEMO_PORTS: Final = {
    "trial": {"DEMO_PORT": 1, "DEMO_ADMIN_PORT": 1, "DEMO_SERVICE_PORT": 4},
    "shop": {"SHOP_PORT": 100},
}
"""Variables of the first port of each demonstration, with the number of ports from there on that may be used."""
IMPORTS: Final = ("envoy", "nginx", "istio", "dapr", "traefik", "gateway-api")
"""Kinds of configuration that `import` translates."""
NAME_A_POLICY: Final = "name a policy file, or a directory with *.yaml files"
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
NAME_A_TEST: Final = "name a *.test.yaml file, or a directory that has some"


@click.group(
    "sidecar",
    cls=Program,
    examples=[
        ("sidecar demo", "Try it on this machine."),
        ("sidecar check policies.yaml", "Find the problems of a policy file."),
        ("sidecar run policies.yaml", "Serve it."),
    ],
)
@click.version_option(f"{__version__} ({describe_build()})", prog_name="sidecar", message="%(prog)s %(version)s")
def main() -> None:
    """Proxy beside a service: timeouts, retries, breakers and more for each route, from policy files.

    PATH is a policy file, or a directory whose *.yaml files are read together.

    Exit codes: 0 success, 1 the policies have problems or a test failed, 2 the command line is wrong.
    """


@main.command("run", examples=[("sidecar run policies.yaml", "Serve until SIGTERM or Ctrl-C.")])
@click.argument("path", type=PATH)
def serve(path: str) -> None:
    """Serve until SIGTERM.

    Changed policy files are read again.  A file with a problem changes nothing.
    """
    from sidecar.process.interpreter import prepare_imports

    prepare_imports()
    from sidecar.app import run

    run(path)


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


@main.command(
    examples=[
        ("sidecar lint policies.yaml", "Print what the rules find."),
        ("sidecar lint --traffic traffic.yaml policies.yaml", "Compute with the rates and latencies of a file."),
        ("sidecar lint --sarif policies.yaml > lint.sarif", "Write a log that code hosts show beside the lines."),
        ("sidecar lint --chain shop/*.yaml", "Compute along the calls from service to service."),
        ("sidecar lint --fix policies.yaml", "Correct what can be corrected safely."),
    ]
)
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--chain", "as_chain", is_flag=True, help="Take each PATH as a service, and follow its calls.")
@click.option("--topology", metavar="FILE", type=PATH, help="Which upstream is which service, where names do not say.")
@click.option("--traffic", metavar="FILE", type=PATH, help="Rates, latencies and errors of routes to compute with.")
@click.option("--deep", is_flag=True, help="Search the load from which each route recovers, in virtual time.")
@click.option("--fix", is_flag=True, help="Write safe corrections into the files.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print a SARIF 2.1.0 log.")
@json_option
def lint(
    paths: tuple[str, ...],
    as_chain: bool,
    topology: str | None,
    traffic: str | None,
    deep: bool,
    fix: bool,
    as_sarif: bool,
    as_json: bool,
) -> None:
    """Print what the numbers in policy files mean together.

    The rules compute: tries that cannot run, the worst case of each route, breakers that cannot open or open on noise,
    queues that outlive deadlines, and more.  Each PATH is one set of policies.  A comment `# lint: ignore R024: reason`
    suppresses a finding.  With --chain the paths are services that call each other: rules and a drawing along each path
    of calls follow.  The exit code is 1 if there is a problem, an error or a warning.  Notes do not fail.
    """
    if as_sarif and as_json:
        reject("--sarif", "cannot stand beside --json; choose one of them")
    from sidecar.lint.fix import fixed, write
    from sidecar.lint.run import Linted
    from sidecar.lint.run import lint as run_rules
    from sidecar.lint.traffic import NO_TRAFFIC

    stated = NO_TRAFFIC if traffic is None else read_traffic(traffic)
    if topology is not None and not as_chain:
        reject("--topology", "needs --chain; add it, or leave --topology out")
    problems: list[Problem] = []
    linted = Linted([], [])
    every: list[Source] = []
    specs: list[PolicySpec] = []
    for path in paths:
        sources = read_sources(path, as_json=as_json)
        loaded = load_sources(sources)
        result = run_rules(loaded, sources, stated)
        if fix and loaded.spec is not None:
            changed, applied = fixed(sources, result.findings)
            try:
                write(sources, changed)
            except OSError as error:
                raise Failure(f"{error.filename}: {error.strerror}; make it writable, or leave --fix out") from None
            for each in applied:
                assert each.fix is not None
                place = f"{each.problem.file}:{each.problem.line}:{each.problem.column}"
                what = f"fixed {each.rule}: {each.fix.old} to {each.fix.new}"
                click.echo(f"{place}: {each.problem.path}: {what}", err=True)
            sources = changed
            loaded = load_sources(sources)
            result = run_rules(loaded, sources, stated)
        if deep and loaded.spec is not None:
            print_margins(sources, loaded.spec)
        problems += loaded.problems
        every += sources
        specs += [] if loaded.spec is None else [loaded.spec]
        linted = Linted(linted.findings + result.findings, linted.suppressed + result.suppressed)
    chain: Chain | None = None
    if as_chain and not problems:
        chain = read_chain(paths, specs, topology)
        linted = lint_chain(chain, linted, every)
    print_lint(paths, problems, linted, "sarif" if as_sarif else "json" if as_json else "text", chain)


@main.command(
    examples=[
        ("sidecar diff old.yaml new.yaml", "Print what a change means."),
        ("sidecar diff --markdown main/policies policies", "Print it for a pull request."),
    ]
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@json_option
def diff(old: str, new: str, markdown: bool, as_json: bool) -> None:
    """Print what a change of policies means.

    OLD and NEW are policy files or directories.  Printed is what requests will experience, not how the texts differ:
    worst latency, load on upstreams, what is sent twice, who is refused.  Risks begin with `!`, and findings of the
    rules that only one side has follow.  The exit code is 1 if a file has a problem.
    """
    if markdown and as_json:
        reject("--markdown", "cannot stand beside --json; choose one of them")
    from sidecar.lint import diff as meaning

    found = meaning.diff(load_policies(old, as_json=as_json), load_policies(new, as_json=as_json))
    if as_json:
        from sidecar.inspect.documents import diff_document

        print_json(diff_document(found))
    elif markdown:
        click.echo(meaning.markdown(found, old, new), nl=False)
    else:
        click.echo(meaning.text(found), nl=False)


@main.command(
    examples=[
        ("sidecar replay old.yaml new.yaml --log access.jsonl", "Predict what the new policies would have done."),
        ("sidecar replay --seeds 5 --html replay.html old new --log access.jsonl", "Write a page too."),
    ]
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--log", "log", type=PATH, required=True, metavar="FILE", help="Access log whose requests are replayed.")
@click.option(
    "--format",
    "form",
    type=Choice(("sidecar", "nginx", "envoy", "envoy_json")),
    help="Format of the log; else guessed.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, metavar="N", help="Number of seeds; 3 if not given.")
@click.option(
    "--max-drop", type=click.FloatRange(0, 100), default=0.5, metavar="POINTS",
    help="Largest drop of availability and goodput in points; 0.5 if not given.",
)  # fmt: skip
@click.option("--max-p99", type=click.FloatRange(0), metavar="FACTOR", help="Largest factor of p99; else any.")
@click.option("--max-load", type=click.FloatRange(0), metavar="FACTOR", help="Largest factor of attempts; else any.")
@click.option("--html", type=PATH, metavar="FILE", help="Write a page of HTML too.")
@json_option
def replay(
    old: str,
    new: str,
    log: str,
    form: str | None,
    seeds: int,
    max_drop: float,
    max_p99: float | None,
    max_load: float | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Replay a log under two sets of policies, in virtual time.

    OLD and NEW are policy files or directories.  The requests of the log go through the real pipeline, to upstreams
    that behave as the log says for the same time.  Printed are availability, latency, load and what the policies did,
    and what the log cannot tell.  The exit code is 1 if NEW exceeds a bound, or if a file has a problem.
    """
    from sidecar.control.compiler import CompileError
    from sidecar.replay import report
    from sidecar.replay.formats import read_log
    from sidecar.replay.run import replay as run_replay
    from sidecar.replay.world import Unmatched

    before, after = load_policies(old, as_json=as_json), load_policies(new, as_json=as_json)
    try:
        record = read_log(log, form)
    except OSError as error:
        raise Failure(describe_path_error(error, "name an access log")) from None
    if not record.requests:
        named = "".join(f"\n{each}" for each in record.named)
        raise Failure(
            f"{log}: has no requests to replay; name a log in JSON of the sidecar, of nginx or of Envoy{named}"
        )
    try:
        result = run_replay(before, after, record, range(1, seeds + 1))
    except CompileError as error:
        raise Failure(str(error)) from None
    except Unmatched:
        raise Failure(f"{log}: no request has a route in the policies; name the log of this service") from None
    failures = result.is_worse(max_drop, max_p99, max_load)
    if html is not None:
        from sidecar.replay.page import page

        try:
            with open(html, "w", encoding="utf-8") as file:
                file.write(page(result, failures, old, new))
        except OSError as error:
            raise Failure(describe_path_error(error, "name a file that can be written")) from None
    if as_json:
        print_json(report.document(result, failures))
    else:
        click.echo(report.text(result, failures), nl=False)
    sys.exit(FAILURE if failures else 0)


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
    pairs = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            reject("--header", f"`{header}` has no colon; write -H 'name: value'")
        pairs.append((name, value))
    try:
        x = exchange_of(method, url, pairs, snapshot.spec.limits)
    except RequestError as error:
        reject(error.part, str(error))
    x.path = remove_dot_segments(x.path)
    if snapshot.spec.listeners[listener].grpc_web:
        become_call(x)
    x.client_address = "" if client is None else parse_client(client)
    if as_json:
        from sidecar.inspect.explain_json import explain_document

        print_json(explain_document(snapshot, listener, x))
    else:
        about_token = [] if token_file is None else explain_token(path, snapshot, listener, x, token_file)
        click.echo(explain_text(snapshot, listener, x), nl=False)
        for line in about_token:
            click.echo(line)


def parse_client(address: str) -> str:
    """Return the address of `--client`, or end the command."""
    from ipaddress import ip_address

    try:
        return str(ip_address(address))
    except ValueError:
        reject("--client", f"`{address}` is not an IP address; write it such as 10.0.0.1")


def explain_token(path: str, snapshot: Snapshot, listener: str, x: Exchange, token_file: str) -> list[str]:
    """Return lines that say which identities accept the token of a file; set the caller of the request."""
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
    return ["", "token", *(f"    {sentence}" for sentence in token_text(spec, found, token, now))]


@main.command(
    examples=[
        ("sidecar promote --dry-run policies.yaml checkout", "Print what would change."),
        ("sidecar promote policies.yaml checkout", "Give the candidate all requests of the route."),
        ("sidecar promote --arm checkout-v1 policies.yaml checkout", "Take the split back out of the file."),
    ]
)
@click.argument("path", type=PATH)
@click.argument("route")
@click.option("--arm", metavar="NAME", help="Upstream of the split that gets all requests; by default the candidate.")
@click.option("--dry-run", is_flag=True, help="Print the change as a unified diff, and write nothing.")
def promote(path: str, route: str, arm: str | None, dry_run: bool) -> None:
    """Make the candidate of a route the route itself.

    The policies of `candidate` are merged over those of the route, or the split is replaced by one upstream.  Comments
    and layout of the file stay.  A result that would say anything else than the candidate is not written.
    """
    from sidecar.config.load import load
    from sidecar.config.report import visible
    from sidecar.inspect.promote import PromotionError
    from sidecar.inspect.promote import promote as edit

    sources = read_sources(path, as_json=False)
    loaded = load(sources, os.environ)
    if loaded.spec is None:
        print_problems(loaded)
        sys.exit(FAILURE)
    names = [each.name for each in loaded.spec.routes]
    if route not in names:
        reject("ROUTE", f"there is no route `{route}`; {suggest(route, names)}")
    try:
        found = edit(sources, loaded.spec, route, arm, os.environ)
    except PromotionError as error:
        raise Failure(visible(str(error))) from None
    if dry_run:
        click.echo(found.diff(), nl=False)
        return
    try:
        found.write()
    except OSError as error:
        raise Failure(f"{found.name}: {error.strerror}; name a file that can be written") from None
    click.echo(visible(f"{found.name}: route `{route}` is now `{found.arm}`"))


@main.command(
    examples=[
        ("sidecar key new batch-2027", "Make a key and print it, with its entry for the file."),
        ("sidecar key new batch-2027 --owner batch --file keys.yaml", "Make a key and add it to a file."),
    ]
)
@click.argument("action", type=Choice(["new"]))
@click.argument("name")
@click.option("--owner", metavar="NAME", help="Name of the caller; by default that of the key.")
@click.option("--file", "path", metavar="FILE", help="File of keys that the entry is added to.")
def key(action: str, name: str, owner: str | None, path: str | None) -> None:
    """Make an API key for the identity `api_key`.

    The key is printed once and stored nowhere; the file has its digest only.
    """
    from sidecar.identity.api_keys import add_entry, new_key

    assert action == "new"
    made, entry = new_key(name, owner or name)
    if path is not None:
        try:
            add_entry(path, entry)
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise Failure(f"{path}: {error}") from None
    click.echo(made)
    click.echo(f"keys:\n{entry}" if path is None else f"{path} has its digest", nl=path is not None, err=True)


@main.command(
    examples=[
        ("sidecar top", "Watch the sidecar on this machine."),
        ("sidecar top --once 10.0.0.7:9901", "Print one screen of another one."),
    ]
)
@click.argument("address", default="127.0.0.1:9901")
@click.option(
    "--token", envvar="SIDECAR_ADMIN_TOKEN", help="Token of the admin listener; better given by SIDECAR_ADMIN_TOKEN."
)
@click.option("--once", is_flag=True, help="Print one screen and end.")
def top(address: str, token: str | None, once: bool) -> None:
    """Watch a running sidecar in the terminal.

    It shows traffic, breakers, endpoints, limits and refusals, as the live page does.
    ADDRESS is its admin listener, 127.0.0.1:9901 by default.  The key q ends the command.
    """
    from sidecar.config.listen_address import parse_listen_address

    try:
        from sidecar.top import run as screen
        from sidecar.top.stream import StreamError
    except ImportError:
        raise Failure("sidecar top: the library rich is not installed; pip install 'resilience-sidecar[top]'") from None
    try:
        host, port, path = parse_listen_address(address)
    except ValueError as error:
        reject("ADDRESS", f"`{address}` {error}")
    if path:
        reject("ADDRESS", f"`{address}` is a Unix socket, which cannot be watched; give the admin listener a port")
    try:
        (screen.once if once else screen.run)(host, port, token)
    except StreamError as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        return


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


@main.command(
    examples=[
        ("sidecar init docker-compose.yml --service orders -o policies.yaml", "For one service of a Compose file."),
        ("sidecar init service.yaml openapi.yaml", "From a Service and what its API says."),
    ]
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--service", default="", metavar="NAME", help="Service that the sidecar is for.")
@click.option("-o", "--output", metavar="FILE", help="New file to write; by default standard output.")
def init(files: tuple[str, ...], service: str, output: str | None) -> None:
    """Print a first policy for a service.

    FILE is a Compose file, Kubernetes manifests or an OpenAPI document.  Ports, health checks, peers, paths and streams
    come from there, and each value has its reason beside it.
    """
    from sidecar.starter.facts import StarterError
    from sidecar.starter.read import read_facts
    from sidecar.starter.writer import write_policy

    try:
        sources = [(os.path.basename(name), open_binary(name).decode("utf-8", "replace")) for name in files]
        policy = write_policy(read_facts(sources, service))
    except StarterError as error:
        raise Failure(str(error)) from None
    if output is None:
        click.echo(policy, nl=False)
        return
    write_new(output, policy)
    click.echo(f"{output}: written; next: sidecar check {output}")


@main.command(
    "import",
    examples=[
        ("sidecar import envoy envoy.yaml -o policies.yaml", "From Envoy's bootstrap."),
        ("sidecar import nginx nginx.conf", "From an nginx configuration."),
        ("sidecar import istio reviews.yaml", "From VirtualServices, DestinationRules, ServiceEntries and Gateways."),
        ("sidecar import dapr resiliency.yaml", "From Dapr's resiliency."),
        ("sidecar import traefik dynamic.toml", "From a dynamic configuration, or from IngressRoutes."),
        ("sidecar import gateway-api routes.yaml", "From HTTPRoutes, GRPCRoutes and Gateways."),
    ],
)
@click.argument("kind", type=Choice(IMPORTS), metavar=f"[{'|'.join(IMPORTS)}]")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="FILE", help="New file to write; by default standard output.")
def import_(kind: str, file: str, output: str | None) -> None:
    """Print a policy made from another proxy's configuration.

    Each value has the line that it comes from beside it.  What has no equal here, or another meaning, is listed with
    its line on standard error and at the end of the policies.  A route refuses all requests if its original lets only
    some in by means that are not translated.
    """
    from sidecar.imports.findings import TranslationError
    from sidecar.imports.translate import translate

    try:
        translation = translate(kind, os.path.basename(file), open_binary(file).decode("utf-8", "replace"))
    except TranslationError as error:
        raise Failure(str(error)) from None
    if output is None:
        click.echo(translation.policy, nl=False)
    else:
        write_new(output, translation.policy)
    for each in translation.findings:
        click.echo(each, err=True)
    if output is not None:
        click.echo(f"{output}: written, {counted(len(translation.findings), 'note')}; next: sidecar check {output}")


@main.command(
    examples=[
        ("sidecar inject orders.yaml", "Add the sidecar to what a file describes."),
        ("sidecar inject - --policies shop-policies", "The same for what another tool writes to its output."),
        ("sidecar inject --undo orders.yaml", "Take it out again."),
        ("sidecar inject --component deploy/sidecar", "Write a kustomize component that adds it."),
    ]
)
@click.argument("file", required=False, metavar="FILE")
@click.option("--undo", is_flag=True, help="Take the sidecar out of the workloads that have it.")
@click.option("--image", default="resilience-sidecar", show_default=True, help="Image of the sidecar.")
@click.option("--policies", multiple=True, metavar="NAME", help="ConfigMap with policies for all; may be repeated.")
@click.option(
    "--admin-port", type=click.IntRange(1, 65535), default=9901, show_default=True, help="Port of the probes."
)
@click.option("--component", metavar="DIR", help="Write a kustomize component to this directory instead.")
def inject(
    file: str | None,
    undo: bool,
    image: str,
    policies: tuple[str, ...],
    admin_port: int,
    component: str | None,
) -> None:
    """Print Kubernetes manifests whose workloads have the sidecar.

    FILE has Deployments, StatefulSets, DaemonSets, Jobs, CronJobs or Pods; - reads standard input.  Other documents
    stay as they are.  A second run changes nothing.

    The policies come from the ConfigMaps of --policies, and from those in FILE whose label
    resilience-sidecar/policies-of has the name of the workload, or `all`; without any from the ConfigMap NAME-policies.
    The annotation resilience-sidecar/inject: "false" leaves a workload out.
    """
    from sidecar.manifests import component as components
    from sidecar.manifests import inject as manifests
    from sidecar.manifests.documents import ManifestError
    from sidecar.manifests.pod import Options

    options = Options(image, admin_port, policies)
    if component is not None:
        if file is not None or undo:
            reject("--component", "stands alone; leave FILE and --undo out")
        write_files(component, components.files(options))
        return
    if file is None:
        reject("FILE", "is missing; name a file of manifests, or - for standard input")
    source = sys.stdin.read() if file == "-" else open_binary(file).decode("utf-8", "replace")
    try:
        result = manifests.undo(source) if undo else manifests.inject(source, options)
    except ManifestError as error:
        raise Failure(f"{file}:{error}") from None
    click.echo(result.text, nl=False)
    for note in result.notes:
        click.echo(f"{file}:{note}", err=True)
    if not result.changed:
        click.echo(f"{file}: no workload {'has the sidecar' if undo else 'to add the sidecar to'}", err=True)


@main.command(
    examples=[
        ("sidecar capture policies.yaml", "Print the rules for nftables."),
        ("sidecar capture --apply --uid 65532 policies.yaml", "Put them in force."),
        ("sidecar capture --undo policies.yaml", "Remove them."),
    ]
)
@click.argument("path", type=PATH)
@click.option("--apply", "is_applied", is_flag=True, help="Put the rules in force, in place of earlier ones.")
@click.option("--undo", is_flag=True, help="Remove the rules.")
@click.option("--iptables", "uses_iptables", is_flag=True, help="Use iptables and ip6tables instead of nftables.")
@click.option(
    "--uid",
    type=click.IntRange(0, 2**32 - 2),
    default=65532,
    show_default=True,
    help="User of the sidecar, whose connections are exempt.",
)
@click.option(
    "--skip-port", "ports", type=click.IntRange(1, 65535), multiple=True, help="Port to leave alone; may be repeated."
)
@click.option(
    "--skip-network", "networks", multiple=True, metavar="CIDR", help="Network to leave alone; may be repeated."
)
def capture(
    path: str,
    is_applied: bool,
    undo: bool,
    uses_iptables: bool,
    uid: int,
    ports: tuple[int, ...],
    networks: tuple[str, ...],
) -> None:
    """Print rules of the kernel that redirect connections here.

    The rules hold for all programs of this network namespace.  Their connections go to the listeners of PATH with
    `original_destination`.  Loopback and the sidecar's own user are exempt.
    """
    from sidecar.process import redirect as rules

    if is_applied and undo:
        reject("--undo", "stands beside --apply; give one of them")
    try:
        if undo:
            rules.undo(uses_iptables=uses_iptables)
            click.echo("the rules are removed")
            return
        redirect = rules.plan(load_policies(path), uid, ports, networks)
        if not is_applied:
            click.echo(rules.iptables_script(redirect) if uses_iptables else rules.nft_rules(redirect), nl=False)
            return
        rules.apply(redirect, uses_iptables=uses_iptables)
    except rules.RedirectError as error:
        raise Failure(f"{path}: {error}" if str(error).startswith("listeners") else str(error)) from None
    click.echo("the rules are in force")


def write_files(directory: str, files: Mapping[str, str]) -> None:
    """Write files to a directory, which is made if it is missing; a failure ends the command."""
    try:
        os.makedirs(directory, exist_ok=True)
        for name, content in files.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise Failure(
            f"{error.filename or directory}: {error.strerror}; name a directory that can be written"
        ) from None
    click.echo(f"{directory}: {', '.join(files)}")


@main.group("proto", cls=Program, examples=[("sidecar proto pull 127.0.0.1:9000 -o shop.binpb", "Save the types.")])
def proto() -> None:
    """Work with descriptor sets of gRPC services."""


@proto.command(
    "pull",
    examples=[
        ("sidecar proto pull 127.0.0.1:9000 -o shop.binpb", "Save the descriptor set of a service."),
        (
            "sidecar proto pull https://shop.prod:443 --service shop.Orders -o shop.binpb",
            "Save what one service needs.",
        ),
    ],
)
@click.argument("address")
@click.option("-o", "--output", metavar="FILE", help="File to write; by default standard output.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; may be repeated.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the questions.")
@click.option("--ca", metavar="FILE", help="Certificate authorities of the server, in PEM.")
@click.option("--timeout", type=float, default=10.0, metavar="SECONDS", help="Longest time of a question.")
def pull(
    address: str,
    output: str | None,
    services: tuple[str, ...],
    headers: tuple[str, ...],
    ca: str | None,
    timeout: float,
) -> None:
    """Write the descriptor set of a running service.

    ADDRESS is host:port, or a URL; https:// means TLS.  The service must have server reflection.
    """
    from sidecar.proto import reflection

    scheme, mark, rest = address.rpartition("://")
    target = rest.rstrip("/")
    if (mark and scheme not in ("http", "https")) or ":" not in target or not target.rpartition(":")[2].isdigit():
        reject("ADDRESS", f"`{address}` is not an address; write such as 127.0.0.1:9000 or https://shop.prod:443")
    pairs = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            reject("--header", f"`{header}` has no colon; write -H 'name: value'")
        pairs.append((name.strip().lower(), value.strip()))
    try:
        authorities = None if ca is None else open_binary(ca)
        found = reflection.pull(reflection.askers(target, authorities, scheme == "https", pairs, timeout), services)
    except reflection.PullError as error:
        raise Failure(f"{address}: {error}") from None
    if output is None:
        click.echo(found, nl=False)
        return
    try:
        with open(output, "wb") as file:
            file.write(found)
    except OSError as error:
        raise Failure(f"{output}: {error.strerror}; name a file that can be written") from None
    click.echo(f"{output}: {counted(len(found), 'byte')}")


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


def check_port(name: str, many: int) -> None:
    """Raise `click.BadParameter` unless an environment variable names a port that has `many` - 1 ports after it."""
    value = os.environ.get(name, "1")
    highest = 65536 - many
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= highest):
        reject(name, f"`{value}` is not a port; write a number from 1 to {highest}")


add_completion(main)


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


def print_margins(sources: Sequence[Source], spec: PolicySpec) -> None:
    """Print to standard error the load from which each route to the service beside the sidecar recovers."""
    from chaos.deep import margins
    from sidecar.config.process_spec import OUTBOUND
    from sidecar.config.report import visible

    names = [each.name for each in spec.routes if each.upstream and each.listener not in (OUTBOUND, "none")]
    for name, share in margins(sources, os.environ, names[:MOST_MARGINS]).items():
        words = f"recovers from an overload at up to {share:.0%} of what its service can do"
        click.echo(visible(f"route {name}: {words if share else 'does not recover from an overload'}"), err=True)


def read_chain(paths: Sequence[str], specs: Sequence[PolicySpec], topology: str | None) -> Chain:
    """Return the chain of services.  Two services of one name, and problems of the topology file, end the command."""
    from sidecar.lint.chain import Chain, load_topology

    first: dict[str, str] = {}
    for path, spec in zip(paths, specs, strict=True):
        if (known := first.setdefault(spec.service, path)) != path:
            raise Failure(f"{path}: has the service `{spec.service}` of {known} too; give each its own `service`")
    calls: dict[str, dict[str, str]] | None = {}
    if topology is not None:
        calls, problems = load_topology(read_sources(topology, as_json=False)[0])
        if calls is None:
            raise Failure("\n".join(str(problem) for problem in problems))
        for caller, targets in calls.items():
            for name in (caller, *targets.values()):
                if name not in first:
                    raise Failure(f"{topology}: names the service `{name}`, which no PATH has; {suggest(name, first)}")
    return Chain(specs, calls or {})


def lint_chain(chain: Chain, linted: Linted, sources: Sequence[Source]) -> Linted:
    """Return the findings with those along a chain, which comments may suppress too."""
    from sidecar.lint.run import find_in_chain, merge

    return merge(linted, find_in_chain(chain), sources)


def print_lint(
    paths: Iterable[str], problems: list[Problem], linted: Linted, form: str, chain: Chain | None = None
) -> NoReturn:
    """Print findings and end the command: with 1 if there is a problem, an error or a warning."""
    from sidecar.config.report import visible

    fails = bool(problems) or any(each.severity != "note" for each in linted.findings)
    if form == "json":
        from sidecar.inspect.documents import lint_document

        print_json(lint_document(problems, *linted, chain))
    elif form == "sarif" and not problems:
        from sidecar.lint.sarif import sarif_document

        print_json(sarif_document(*linted, __version__))
    else:
        for problem in problems:
            click.echo(visible(str(problem)), err=form == "sarif")
        if form == "text":
            if chain is not None:
                from sidecar.lint.chain import draw

                click.echo("\n".join(map(visible, draw(chain))))
            for each in linted.findings:
                click.echo(visible(each.text))
            counts = Counter(each.severity for each in linted.findings)
            words = [counted(counts[name], name) for name in ("error", "warning", "note") if counts[name]]
            words += [f"{len(linted.suppressed)} suppressed"] if linted.suppressed else []
            click.echo(visible(f"{', '.join(paths)}: {', '.join(words) or 'nothing found'}"))
    sys.exit(FAILURE if fails else 0)


def read_traffic(path: str) -> TrafficSpec:
    """Return the traffic that a file states.  Problems are printed, and end the command."""
    from sidecar.lint.traffic import load_traffic

    spec, problems = load_traffic(read_sources(path, as_json=False)[0])
    if spec is None:
        raise Failure("\n".join(str(problem) for problem in problems))
    return spec


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


if __name__ == "__main__":
    main(prog_name="sidecar")
