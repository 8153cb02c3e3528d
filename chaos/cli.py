"""Command line of `chaos`.  Its exit codes are in `docs/command-line.md`.

Rules:

1. Each command imports what it needs when it runs, so that `--help` answers at once.
2. What cannot be run is left out by name, and a choice that leaves nothing to run is a failure: an empty run never
   passes.
3. Files that are asked for are known to be writable before a run begins.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar import __version__
from sidecar.command_line import FAILURE, Choice, Failure, InputPath, Program, add_completion, counted, reject

if TYPE_CHECKING:
    from chaos.battery import Result
    from chaos.scenario.files import Loaded

ARM_WORDS = Choice(["bare", "sidecar", "envoy", "recommended", "both", "all"])
ABOUT_ARMS = "both: bare and sidecar; recommended: sidecars with the recommended starting values alone."
NAME_A_RECORDING = "name a file that was written by --json of a run"
Decorated = Callable[..., Any]


@click.group(
    "chaos",
    cls=Program,
    examples=[
        ("chaos list", "List the scenarios."),
        ("chaos simulate", "Run them in virtual time."),
        ("chaos run --report report.html retry_storm.yaml", "Run one with real processes, and write a report."),
    ],
)
@click.version_option(__version__, prog_name="chaos")
def main() -> None:
    """Break systems of services on purpose, without and with sidecars, and judge whether a cascade was prevented.

    PATHS are scenario files or directories of them; by default the scenarios that come with the sidecar.

    Exit codes: 0 every expectation is met, 1 one is not met or a run had trouble, 2 the command line is wrong.
    """


def check_writable(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """Return a path as it is.  Raises `click.BadParameter` if a file there cannot be written."""
    if path is not None and not os.access(Path(path).absolute().parent, os.W_OK):
        raise click.BadParameter(f"{path} cannot be written; name a file in a directory that is there")
    return path


def output_options(function: Decorated) -> Decorated:
    """Add the options of commands that give verdicts."""
    file = click.Path(dir_okay=False, writable=True)
    for option in (
        click.option(
            "--json", "as_json", type=file, callback=check_writable, help="Write recordings and verdicts as JSON."
        ),
        click.option("--junit", type=file, callback=check_writable, help="Write a JUnit report."),
        click.option("--report", type=file, callback=check_writable, help="Write a report as one page of HTML."),
    ):
        function = option(function)
    return function


def scenario_options(function: Decorated) -> Decorated:
    """Add the options of commands that run scenarios."""
    for option in (
        click.option(
            "--without-decisive",
            is_flag=True,
            help="Take out the policy blocks named as `decisive`; the scenario must fail then.",
        ),
        click.option("--seed", type=int, default=1, show_default=True, help="Seed of all random choices."),
        click.option(
            "--arm",
            type=ARM_WORDS,
            default="both",
            show_default=True,
            help="both: bare and sidecar; recommended: starting values alone.",
        ),
        click.argument("paths", nargs=-1, type=InputPath()),
    ):
        function = option(function)
    return function


@main.command(
    "run",
    short_help="Run scenarios with real processes.",
    examples=[
        ("chaos run", "Run the scenarios that come with the sidecar."),
        ("chaos run --report report.html --repeat 3 retry_storm.yaml", "Run one with three seeds, and write a report."),
    ],
)
@scenario_options
@click.option("--repeat", type=click.IntRange(1, 20), default=1, help="Number of runs, with the seeds from --seed on.")
@click.option(
    "--network", default="", help="Run in containers on this network (shop_default: that of docker-compose.yml)."
)
@output_options
def run_(
    paths: tuple[str, ...], arm: str, seed: int, without_decisive: bool, repeat: int, network: str, report: str | None,
    junit: str | None, as_json: str | None,
) -> None:  # fmt: skip
    """Run scenarios with real processes on loopback, or in containers.

    The bare arm must show the `cascade` of the scenario.  The sidecar arm must meet what is under `contained`.  The arm
    with Envoy is for comparison.
    """
    import asyncio

    from chaos.battery import run

    scenarios = choose(paths, arm, without_decisive)
    scenarios = in_containers(scenarios, arm) if network else in_namespaces(scenarios)
    results: list[Result] = []
    stopped = False
    try:
        for number in range(seed, seed + repeat):
            click.echo(f"{counted(len(scenarios), 'scenario')}, seed {number}")
            for loaded in scenarios:
                ended = run(loaded, arms(arm), number, without=without_decisive, progress=progress, network=network)
                results.append(asyncio.run(ended))
                print_result(results[-1])
    except KeyboardInterrupt:
        click.echo("\nstopped: faults are undone, and no process is left running", err=True)
        stopped = True
    finish(results, report, junit, as_json, stopped=stopped)


@main.command(
    short_help="Run scenarios in virtual time.",
    examples=[
        ("chaos simulate", "Simulate the scenarios that come with the sidecar."),
        ("chaos simulate --seed 7 retry_storm.yaml", "Simulate one with another seed."),
    ],
)
@scenario_options
@output_options
def simulate(
    paths: tuple[str, ...], arm: str, seed: int, without_decisive: bool, report: str | None, junit: str | None,
    as_json: str | None,
) -> None:  # fmt: skip
    """Run scenarios in virtual time.

    The sidecar's own code runs, without processes and without waiting.  The same seed gives the same result.
    """
    from chaos.battery import simulated
    from chaos.verdict.cause import display_path

    if arm == "envoy":
        reject("--arm", "Envoy does not run in virtual time; use `chaos run --arm envoy`")
    if arm == "all":
        click.echo("left out the arm envoy: it does not run in virtual time")
    arm = "both" if arm == "all" else arm
    scenarios = []
    for loaded in choose(paths, arm, without_decisive):
        if loaded.scenario.simulated:
            scenarios.append(loaded)
        else:
            leave_out(loaded, f"it needs real processes; use `chaos run {shlex.quote(display_path(loaded.path))}`")
    if not scenarios:
        raise Failure("chaos simulate: nothing to simulate: these scenarios need real processes; use `chaos run`")
    results = []
    for loaded in scenarios:
        results.append(simulated(loaded, arms(arm), seed, without=without_decisive))
        print_result(results[-1])
    finish(results, report, junit, as_json)


@main.command("list", examples=[("chaos list", "List the scenarios that come with the sidecar.")])
@click.argument("paths", nargs=-1, type=InputPath())
def list_(paths: tuple[str, ...]) -> None:
    """List scenarios.

    The columns are name, duration, arms and title.
    """
    for loaded in read(paths):
        phases = loaded.scenario.phases
        seconds = phases.warm_up + phases.before + phases.during + phases.after
        both = ", ".join(loaded.scenario.arms)
        click.echo(f"{loaded.name:<28} {seconds:3.0f} s  {both:<22} {loaded.scenario.title}")


@main.command(
    short_help="Judge recorded runs again.",
    examples=[("chaos replay --report report.html recording.json", "Judge runs of `--json recording.json` again.")],
)
@click.argument("recording", type=click.Path(exists=True, dir_okay=False))
@click.argument("paths", nargs=-1, type=InputPath())
@output_options
def replay(recording: str, paths: tuple[str, ...], report: str | None, junit: str | None, as_json: str | None) -> None:
    """Judge recorded runs (`--json` of a run) again, by the expectations that are in the scenario files now.

    PATHS are the files of the scenarios, if these are not among those that come with the sidecar.
    """
    from chaos.battery import replayed

    scenarios = read(paths)
    known = {loaded.name for loaded in scenarios}
    try:
        document = json.loads(Path(recording).read_bytes())
    except (OSError, ValueError):  # a file that is not JSON, or not UTF-8
        raise Failure(f"{recording}: is not JSON; {NAME_A_RECORDING}") from None
    try:
        if lost := sorted({each["scenario"] for each in document["results"]} - known):
            raise Failure(f"{recording}: has runs of {', '.join(lost)}; add the file of that scenario")
        results = replayed(document, scenarios)
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{recording}: is not a recording ({type(error).__name__}); {NAME_A_RECORDING}") from error
    if not results:
        raise Failure(f"{recording}: has no runs; {NAME_A_RECORDING}")
    for result in results:
        print_result(result)
    finish(results, report, junit, as_json)


@main.command(
    short_help="Search the highest load that a system recovers from.",
    examples=[("chaos margin metastable_overload.yaml", "Search it for one scenario.")],
)
@click.argument("path", type=InputPath())
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of all random choices.")
def margin(path: str, seed: int) -> None:
    """Search the highest load at which the system of a scenario recovers after its trigger, in virtual time."""
    from chaos.margin import HIGHEST
    from chaos.margin import margin as search

    for loaded in read((path,)):
        for arm in loaded.scenario.arms:
            if arm == "envoy":
                continue
            factor = search(loaded, arm, seed)
            more = "at least " if factor == HIGHEST else ""
            words = f"recovers at up to {more}{factor:.2f} times the load" if factor else "does not recover"
            click.echo(f"{loaded.name}, {arm}: {words}")


@main.command(
    short_help="Judge the values of policies by a few cascades.",
    examples=[("chaos verdicts policies.yaml", "Print which cascades they contain.")],
)
@click.argument("path", type=InputPath())
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of all random choices.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verdicts(path: str, seed: int, as_json: bool) -> None:
    """Run a few scenarios in virtual time, with the values of policies in place of those of their sidecars.

    The values are those of the first route to the own service and of the first to another one, with their upstreams.
    Caches, fallbacks, rate limits, quotas and what a simulated service has no use for are left out.
    """
    from chaos.deep import verdicts as judge
    from sidecar.config import files
    from sidecar.config.load import load

    try:
        sources = files.read(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; name a policy file, or a directory of them") from None
    if problems := load(sources, os.environ).problems:
        raise Failure("\n".join(map(str, problems)))
    found = judge(sources, os.environ, seed)
    if as_json:
        click.echo(json.dumps([each._asdict() for each in found]))
        return
    for each in found:
        click.echo(f"{each.scenario:<20} {'; '.join(each.missed) or 'contained'}")
    click.echo(f"{sum(not each.missed for each in found)} of {len(found)} contained")


@main.command(examples=[("chaos schema > schema.json", "Save it for an editor.")])
def schema() -> None:
    """Print the JSON Schema of scenario files."""
    from chaos.scenario.files import schema as text

    click.echo(text(), nl=False)


add_completion(main)


def read(paths: tuple[str, ...]) -> list[Loaded]:
    """Return the scenarios of the paths; a problem in one ends the command."""
    from chaos.scenario.files import SCENARIOS, ScenarioError, load

    try:
        return load(paths or [SCENARIOS])
    except ScenarioError as error:
        raise Failure(str(error)) from error


def choose(paths: tuple[str, ...], arm: str, without: bool) -> list[Loaded]:
    """Return the scenarios that have an arm; `without` means that they must name decisive blocks too."""
    known = read(paths)
    found = []
    for loaded in known:
        if not set(arms(arm)) & set(loaded.scenario.runnable):
            leave_out(loaded, f"it has no arm {arm}, only {', '.join(loaded.scenario.arms)}")
        elif without and not loaded.scenario.decisive:
            leave_out(loaded, "it names no `decisive` policy blocks")
        else:
            found.append(loaded)
    if found:
        return found
    if not any(set(arms(arm)) & set(loaded.scenario.runnable) for loaded in known):
        has = "; ".join(f"{loaded.name} has {', '.join(loaded.scenario.arms)}" for loaded in known)
        raise Failure(f"chaos: nothing to run with --arm {arm}: {has}")
    raise Failure("chaos: nothing to run: none of these scenarios names `decisive` policy blocks")


def leave_out(loaded: Loaded, why: str) -> None:
    """Print that a scenario is not run, and why."""
    click.echo(f"left out {loaded.name}: {why}")


def in_containers(scenarios: list[Loaded], arm: str) -> list[Loaded]:
    """Return the scenarios that can run in containers, and print which cannot."""
    from chaos.cluster.base import ClusterError
    from chaos.cluster.containers import engine, is_possible

    if "envoy" in arms(arm):
        reject("--arm", "Envoy is not in the image; leave out --network, or use --arm both")
    try:
        engine()
    except ClusterError as error:
        raise Failure(f"chaos run: --network: {error}") from error
    for loaded in scenarios:
        if loaded.scenario.captured:
            leave_out(loaded, "in containers no rules of the kernel can be set")
        elif not is_possible(loaded.scenario):
            leave_out(loaded, "in containers the engine resolves names")
    return [loaded for loaded in scenarios if is_possible(loaded.scenario)]


def in_namespaces(scenarios: list[Loaded]) -> list[Loaded]:
    """Return the scenarios that can run here, and print which cannot: captured services need namespaces and root."""
    from chaos.cluster.namespaces import obstacle

    why = obstacle() if any(loaded.scenario.captured for loaded in scenarios) else ""
    if not why:
        return scenarios
    for loaded in scenarios:
        if loaded.scenario.captured:
            leave_out(loaded, why)
    if not (found := [loaded for loaded in scenarios if not loaded.scenario.captured]):
        raise Failure(f"chaos run: nothing to run: captured services {why.replace('needs', 'need', 1)}")
    return found


def arms(word: str) -> list[str]:
    """Return the arms that a value of --arm means."""
    from chaos.verdict.report import ARMS

    return list(ARMS[word])


def progress(text: str) -> None:
    """Replace the last line of a terminal; print nothing elsewhere."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K  {text}", nl=False, err=True)


def print_result(result: Result) -> None:
    """Print the result of one scenario, with every expectation that was not met."""
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
    click.echo(f"     {result.cause}")


def finish(
    results: list[Result], report: str | None, junit: str | None, as_json: str | None, *, stopped: bool = False
) -> None:
    """Write the files that were asked for, and end the process: with 0 if there are results and all passed.

    `stopped` means that a user ended the run before its end, which is never a success.
    """
    from chaos.battery import document
    from chaos.verdict.junit import junit_xml
    from chaos.verdict.report import page

    if as_json:
        Path(as_json).write_text(json.dumps(document(results)))
    if junit:
        Path(junit).write_text(junit_xml(results))
    if report:
        Path(report).write_text(page(results))
    tried = [arm for result in results for arm in result.arms if arm.name == "recommended"]
    if tried:
        click.echo(f"the recommended values contain {sum(arm.passed for arm in tried)} of {len(tried)}")
    failed = sum(not result.passed for result in results)
    click.echo(f"{len(results) - failed} of {len(results)} as expected")
    sys.exit(FAILURE if failed or stopped or not results else 0)


if __name__ == "__main__":
    main()
