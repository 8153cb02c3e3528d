"""The command line: `chaos run | simulate | margin | list | replay | schema`.

Exit codes: 0 every expectation is met, 1 one is not or a run had trouble, 2 the command line is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar import __version__

if TYPE_CHECKING:
    from chaos.battery import Result
    from chaos.scenario.files import Loaded

ARM_WORDS = click.Choice(["bare", "sidecar", "envoy", "both", "all"])
Decorated = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chaos")
def main() -> None:
    """Scenarios that break things, and say whether the cascade was prevented.

    PATHS are scenario files or directories of them; without any, the scenarios that come with the sidecar.
    """


def writable(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """Seen before the run, not after it."""
    if path is not None and not os.access(Path(path).absolute().parent, os.W_OK):
        raise click.BadParameter(f"{path} cannot be written; name a file in a directory that is there")
    return path


def outputs(function: Decorated) -> Decorated:
    """The options of everything that has verdicts."""
    file = click.Path(dir_okay=False, writable=True)
    for option in (
        click.option("--json", "as_json", type=file, callback=writable, help="Write recordings and verdicts."),
        click.option("--junit", type=file, callback=writable, help="Write a JUnit report."),
        click.option("--report", type=file, callback=writable, help="Write a page of HTML."),
    ):
        function = option(function)
    return function


def choices(function: Decorated) -> Decorated:
    """The options of everything that runs."""
    for option in (
        click.option(
            "--without-decisive", is_flag=True, help="Take the decisive policy blocks out: it must fail then."
        ),
        click.option("--seed", type=int, default=1, show_default=True, help="Of arrivals, service times and faults."),
        click.option("--arm", type=ARM_WORDS, default="both", show_default=True, help="both: bare and sidecar."),
        click.argument("paths", nargs=-1, type=click.Path()),
    ):
        function = option(function)
    return function


@main.command("run", short_help="Run scenarios with real processes.")
@choices
@click.option("--repeat", type=click.IntRange(1, 20), default=1, help="With so many seeds, from --seed on.")
@click.option("--network", default="", help="In containers on this network (shop_default: that of docker-compose.yml).")
@outputs
def run_(
    paths: tuple[str, ...], arm: str, seed: int, without_decisive: bool, repeat: int, network: str, report: str | None,
    junit: str | None, as_json: str | None,
) -> None:  # fmt: skip
    """Run scenarios with real processes on loopback, or in containers.

    The bare arm has to show its cascade and the sidecar arm what is under `contained`; Envoy's is there to compare.
    """
    from chaos.battery import run

    scenarios = chosen(paths, arm, without_decisive)
    if network:
        scenarios = in_containers(scenarios, arm)
    results: list[Result] = []
    stopped = False
    try:
        for number in range(seed, seed + repeat):
            click.echo(f"{len(scenarios)} scenario{'s' * (len(scenarios) != 1)}, seed {number}")
            for loaded in scenarios:
                ended = run(loaded, arms(arm), number, without=without_decisive, progress=progress, network=network)
                results.append(asyncio.run(ended))
                tell(results[-1])
    except KeyboardInterrupt:
        click.echo("\nstopped: faults are undone, and nothing is left running", err=True)
        stopped = True
    finish(results, report, junit, as_json, stopped=stopped)


@main.command(short_help="The same in virtual time: faster, and repeatable.")
@choices
@outputs
def simulate(
    paths: tuple[str, ...], arm: str, seed: int, without_decisive: bool, report: str | None, junit: str | None,
    as_json: str | None,
) -> None:  # fmt: skip
    """Run the same scenarios in virtual time: the sidecar's own code, without processes and without waiting."""
    from chaos.battery import simulated

    results = []
    for loaded in chosen(paths, arm, without_decisive):
        if loaded.scenario.simulated:
            results.append(simulated(loaded, [a for a in arms(arm) if a != "envoy"], seed, without=without_decisive))
            tell(results[-1])
    finish(results, report, junit, as_json)


@main.command("list")
@click.argument("paths", nargs=-1, type=click.Path())
def list_(paths: tuple[str, ...]) -> None:
    """Show the scenarios there are."""
    for loaded in read(paths):
        phases = loaded.scenario.phases
        seconds = phases.warm_up + phases.before + phases.during + phases.after
        both = ", ".join(loaded.scenario.arms)
        click.echo(f"{loaded.name:<28} {seconds:3.0f} s  {both:<22} {loaded.scenario.title}")


@main.command(short_help="Judge a recording again.")
@click.argument("recording", type=click.Path(exists=True, dir_okay=False))
@click.argument("paths", nargs=-1, type=click.Path())
@outputs
def replay(recording: str, paths: tuple[str, ...], report: str | None, junit: str | None, as_json: str | None) -> None:
    """Judge a recording (`--json` of a run) again, with the expectations as they are in the files now.

    PATHS are the files of its scenarios, if they are not those that come with the sidecar.
    """
    from chaos.battery import replayed

    scenarios = read(paths)
    known = {loaded.name for loaded in scenarios}
    try:
        document = json.loads(Path(recording).read_text())
        if lost := sorted({each["scenario"] for each in document["results"]} - known):
            raise click.ClickException(f"{recording} is of {', '.join(lost)}; name the scenario's file after it")
        results = replayed(document, scenarios)
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(f"{recording} is not what --json of a run has written: {error!r}") from error
    for result in results:
        tell(result)
    finish(results, report, junit, as_json)


@main.command(short_help="Search the load at which it still comes back.")
@click.argument("path", type=click.Path())
@click.option("--seed", type=int, default=1, show_default=True)
def margin(path: str, seed: int) -> None:
    """Search the highest load at which a scenario's system still comes back after the trigger, in virtual time."""
    from chaos.margin import HIGHEST
    from chaos.margin import margin as search

    for loaded in read((path,)):
        for arm in loaded.scenario.arms:
            if arm == "envoy":
                continue
            factor = search(loaded, arm, seed)
            more = "at least " if factor == HIGHEST else ""
            words = f"comes back up to {more}{factor:.2f} times the load" if factor else "does not come back"
            click.echo(f"{loaded.name}, {arm}: {words}")


@main.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    from chaos.scenario.files import schema as text

    click.echo(text(), nl=False)


def read(paths: tuple[str, ...]) -> list[Loaded]:
    """The scenarios that were named."""
    from chaos.scenario.files import SCENARIOS, ScenarioError, load

    try:
        return load(paths or [SCENARIOS])
    except ScenarioError as error:
        raise click.ClickException(str(error)) from error


def chosen(paths: tuple[str, ...], arm: str, without: bool) -> list[Loaded]:
    """Those of them that have such an arm, and something decisive where that is to be taken out."""
    known = read(paths)
    found = [loaded for loaded in known if set(arms(arm)) & set(loaded.scenario.arms)]
    if not found:
        has = "; ".join(f"{loaded.name} has {', '.join(loaded.scenario.arms)}" for loaded in known)
        raise click.ClickException(f"nothing to run with --arm {arm}: {has}")
    found = [loaded for loaded in found if loaded.scenario.decisive or not without]
    if not found:
        raise click.ClickException("nothing to run: none of these says what is `decisive`")
    return found


def in_containers(scenarios: list[Loaded], arm: str) -> list[Loaded]:
    """Those that can be run there."""
    from chaos.cluster.base import ClusterError
    from chaos.cluster.containers import engine, suits

    if "envoy" in arms(arm):
        raise click.UsageError("Envoy is not in the image; leave out --network, or choose --arm both")
    try:
        engine()
    except ClusterError as error:
        raise click.ClickException(str(error)) from error
    for loaded in scenarios:
        if not suits(loaded.scenario):
            click.echo(f"left out {loaded.name}: in containers names are the engine's")
    return [loaded for loaded in scenarios if suits(loaded.scenario)]


def arms(word: str) -> list[str]:
    """What an option means."""
    return {"both": ["bare", "sidecar"], "all": ["bare", "sidecar", "envoy"]}.get(word, [word])


def progress(text: str) -> None:
    """One line that changes, where somebody looks at it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K  {text}", nl=False, err=True)


def tell(result: Result) -> None:
    """What came of one scenario."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    word = click.style("ok  ", fg="green") if result.passed else click.style("FAIL", fg="red", bold=True)
    took = max(arm.recording.seconds for arm in result.arms)
    click.echo(f"{word} {result.name:<28} {result.headline} ({took:.0f} s, seed {result.arms[0].recording.seed})")
    for arm in result.arms:
        for verdict in arm.verdicts:
            if not verdict.passed:
                limit = f", wanted {verdict.limit}" if verdict.limit else ""
                click.echo(f"       {arm.name}: {verdict.what}: {verdict.measured}{limit}")


def finish(
    results: list[Result], report: str | None, junit: str | None, as_json: str | None, *, stopped: bool = False
) -> None:
    """Write what was asked for, of as many scenarios as have ended, and end with the exit code."""
    from chaos.battery import document
    from chaos.verdict.junit import junit_xml
    from chaos.verdict.report import page

    if as_json:
        Path(as_json).write_text(json.dumps(document(results)))
    if junit:
        Path(junit).write_text(junit_xml(results))
    if report:
        Path(report).write_text(page(results))
    failed = sum(not result.passed for result in results)
    click.echo(f"{len(results) - failed} of {len(results)} as expected")
    sys.exit(1 if failed or stopped or not results else 0)


if __name__ == "__main__":
    main()
