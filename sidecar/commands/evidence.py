"""Commands that compute before a policy ships: `lint`, `diff`, `replay`, `recommend`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import click

from sidecar import __version__
from sidecar.command_line import FAILURE, Choice, Failure, counted, describe_path_error, reject, suggest
from sidecar.commands.files import (
    PATH,
    json_option,
    load_policies,
    load_sources,
    print_json,
    read_sources,
    tcp_address,
    token_option,
)
from sidecar.commands.group import main

if TYPE_CHECKING:
    from sidecar.config.files import Source
    from sidecar.config.spec import PolicySpec
    from sidecar.core.spec import Problem
    from sidecar.lint.chain import Chain
    from sidecar.lint.run import Linted
    from sidecar.lint.traffic import TrafficSpec
    from sidecar.replay.record import Record
    from sidecar.telemetry.metrics.period import HistoryDocument

MOST_MARGINS: Final = 10
"""Most routes of which `--deep` searches the margin."""
format_option: Final = click.option(
    "--format", "form", type=Choice(("sidecar", "nginx", "envoy", "envoy_json")),
    help="Format of the log; else guessed.",
)  # fmt: skip


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
    paths = tuple(dict.fromkeys(paths))
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
@click.option("--deep", is_flag=True, help="Search the load from which each route recovers, in virtual time.")
@json_option
def diff(old: str, new: str, markdown: bool, deep: bool, as_json: bool) -> None:
    """Print what a change of policies means.

    OLD and NEW are policy files or directories.  Printed is what requests will experience, not how the texts differ:
    worst latency, load on upstreams, what is sent twice, who is refused.  Risks begin with `!`, and findings of the
    rules that only one side has follow.  The exit code is 1 if a file has a problem.
    """
    if markdown and as_json:
        reject("--markdown", "cannot stand beside --json; choose one of them")
    from sidecar.lint import diff as meaning

    before, after = load_policies(old, as_json=as_json), load_policies(new, as_json=as_json)
    found = meaning.diff(before, after)
    if deep:
        sides = ((old, before), (new, after))
        found = meaning.with_margins(
            found, *(margins_of(read_sources(path, as_json=as_json), spec) for path, spec in sides)
        )
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
@format_option
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
    from sidecar.replay.run import replay as run_replay
    from sidecar.replay.world import Unmatched

    before, after = load_policies(old, as_json=as_json), load_policies(new, as_json=as_json)
    record = read_record(log, form)
    try:
        result = run_replay(before, after, record, range(1, seeds + 1))
    except CompileError as error:
        raise Failure(str(error)) from None
    except Unmatched:
        raise Failure(f"{log}: no request has a route in the policies; name the log of this service") from None
    failures = result.is_worse(max_drop, max_p99, max_load)
    if html is not None:
        from sidecar.replay.page import page

        write_text(html, page(result, failures, old, new))
    if as_json:
        print_json(report.document(result, failures))
    else:
        click.echo(report.text(result, failures), nl=False)
    sys.exit(FAILURE if failures else 0)


@main.command(
    examples=[
        ("sidecar recommend policies.yaml --log access.jsonl", "Print what the log suggests."),
        ("sidecar recommend policies.yaml --admin 127.0.0.1:9901", "Print what the figures of a running one suggest."),
        ("sidecar recommend policies.yaml --log access.jsonl --write values.patch", "Write the change as a patch too."),
    ]
)
@click.argument("path", type=PATH)
@click.option("--log", "log", type=PATH, metavar="FILE", help="Access log of good days.")
@click.option("--admin", "admin", metavar="ADDRESS", help="Admin listener of a sidecar with the figures of good days.")
@click.option("--history", "history", type=PATH, metavar="FILE", help="File of `admin.history` with these figures.")
@format_option
@click.option(
    "--max-stale",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=5.0,
    metavar="PERCENT",
    help="Accepted share of stale answers among those from a cache; 5 if not given.",
)
@click.option(
    "--seeds", type=click.IntRange(0, 100), default=1, metavar="N", help="Replays of each change; 1 if not given."
)
@click.option("--write", type=PATH, metavar="FILE", help="Write the changes as a patch for `patch -p0`.")
@token_option
@json_option
def recommend(
    path: str, log: str | None, admin: str | None, history: str | None, form: str | None, max_stale: float, seeds: int,
    write: str | None, token: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Print the values that a log or a running sidecar suggests.

    Timeouts come from percentiles, thresholds of breakers from the noise of good times, limits from calls in flight,
    lifetimes of cached answers from how often these change.  Each value has its evidence and its place, and with a log
    its effect in a replay.  Figures beside a log add what it cannot tell.  The policies are not changed.
    """
    from sidecar.control.compiler import CompileError
    from sidecar.lint.facts import Policies
    from sidecar.replay import recommend as values
    from sidecar.replay.cached import CacheFigures
    from sidecar.replay.evidence import LogOrigin, Origin
    from sidecar.replay.figures import FiguresOrigin
    from sidecar.replay.world import Unmatched, name_routes

    if log is None and admin is None and history is None:
        reject("--log", "say where the evidence comes from: --log, --admin or --history")
    if admin is not None and history is not None:
        reject("--history", "cannot stand beside --admin; choose one of them")
    if form is not None and log is None:
        reject("--format", "is that of a log; add --log, or leave it out")
    sources = read_sources(path, as_json=as_json)
    spec = load_policies(path, as_json=as_json)
    facts = Policies(spec)
    has_figures = admin is not None or history is not None
    figures = read_figures(admin, history or "", token) if has_figures else None
    record = None if log is None else read_record(log, form)
    try:
        if record is not None:
            name_routes(record, spec)
            caches = None if figures is None else CacheFigures(facts, figures, max_stale / 100)
            origin: Origin = LogOrigin(facts, record, caches)
        else:
            assert figures is not None
            origin = FiguresOrigin(facts, figures, max_stale / 100)
        result = values.recommend(sources, spec, origin, os.environ, range(1, seeds + 1))
    except CompileError as error:
        raise Failure(str(error)) from None
    except Unmatched:
        raise Failure(f"{log}: no request has a route in the policies; name the log of this service") from None
    if write is not None:
        write_text(write, result.patch())
    if as_json:
        print_json(values.document(result))
    else:
        click.echo(values.text(result), nl=False)


def read_figures(admin: str | None, file: str, token: str | None) -> HistoryDocument:
    """Return the figures of a running sidecar, or of a file.  Figures that cannot be read end the command."""
    from sidecar.telemetry.metrics.period import MOST_BYTES, read_history

    if admin is not None:
        from sidecar.top.stream import StreamError, get

        place, address = f"{admin}/history", tcp_address("--admin", admin)
        try:
            text = get(*address, token, "/history", MOST_BYTES)
        except StreamError as error:
            raise Failure(str(error)) from None
    else:
        place = file
        try:
            with open(file, "rb") as opened:
                text = opened.read(MOST_BYTES)
        except OSError as error:
            raise Failure(f"{file}: {describe_path_error(error, 'name the file of `admin.history`')}") from None
    try:
        return read_history(text)
    except ValueError as error:
        raise Failure(f"{place}: is no history of this version: {error}; use the sidecar that wrote it") from None


def write_text(path: str, content: str) -> None:
    """Write a file, in the place of one that is there.  A file that cannot be written ends the command."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise Failure(f"{path}: {describe_path_error(error, 'name a file that can be written')}") from None


def read_record(log: str, form: str | None) -> Record:
    """Return the record of an access log.  A log without requests ends the command."""
    from sidecar.replay.formats import read_log

    try:
        record = read_log(log, form)
    except OSError as error:
        raise Failure(f"{log}: {describe_path_error(error, 'name an access log')}") from None
    if not record.requests:
        named = "".join(f"\n{each}" for each in record.named)
        raise Failure(
            f"{log}: has no requests to replay; name a log in JSON of the sidecar, of nginx or of Envoy{named}"
        )
    return record


def margins_of(sources: Sequence[Source], spec: PolicySpec) -> dict[str, float]:
    """Return the margin of the first routes to the service beside the sidecar (`chaos.deep`)."""
    from chaos.deep import margins
    from sidecar.config.process_spec import OUTBOUND

    names = [each.name for each in spec.routes if each.upstream and each.listener not in (OUTBOUND, "none")]
    return margins(sources, os.environ, names[:MOST_MARGINS])


def print_margins(sources: Sequence[Source], spec: PolicySpec) -> None:
    """Print to standard error the load from which each route to the service beside the sidecar recovers."""
    from sidecar.config.report import visible

    for name, share in margins_of(sources, spec).items():
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
            upstreams = next(spec.upstreams for spec in specs if spec.service == caller)
            for name in targets:
                if name not in upstreams:
                    what = f"names the upstream `{name}`, which {caller} does not have"
                    raise Failure(f"{topology}: {what}; {suggest(name, upstreams)}")
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
            words = [counted(len(problems), "problem"), *words] if problems else words
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
