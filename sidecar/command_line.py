"""Command lines of `sidecar` and `chaos`: problems on one line, examples in the help, completion in shells.

Rules:

1. A problem is one line on standard error: where, what is wrong, what would be right.  A mistake in the command line
   names the command with the option or argument.  A mistake in a file names the file.
2. An unknown command, option or choice is answered with the nearest known one, else with all of them.
3. Exit codes: `FAILURE` where the input has a problem, 2 where the command line is wrong (`docs/command-line.md`).
4. An import of this module loads click and nothing else, so that `--help` and completion are quick.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

FAILURE: Final = 1
"""Exit code of a command whose input has a problem, or whose verdict is negative."""
HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}
SHELLS: Final = ("bash", "zsh", "fish")

Example = tuple[str, str]
"""Command as it is typed, and what it does."""


class Failure(click.ClickException):
    """Problem that ends a command with exit code 1; its message names the place."""

    exit_code = FAILURE

    def show(self, file: Any = None) -> None:
        """Print the message alone, as policy problems are printed."""
        click.echo(self.message, file=file, err=file is None)


class WrongUsage(click.UsageError):
    """Mistake in the command line, which ends it with exit code 2."""

    def show(self, file: Any = None) -> None:
        """Print the message alone: the usage and the options are in `--help`."""
        click.echo(self.message, file=file, err=file is None)


class Choice(click.Choice[str]):
    """Parameter type: one of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word.  Raises `click.BadParameter`, which names the nearest one."""
        if value not in self.choices:
            self.fail(f"`{value}` is not a choice; {suggest(str(value), self.choices)}", param, ctx)
        return str(value)


class Command(click.Command):
    """Command whose help ends with examples."""

    allow_extra_args = True  # refused below, in our own words

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **settings: Any) -> None:
        settings.setdefault("context_settings", HELP_OPTIONS)
        super().__init__(*args, **settings)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.  Raises `click.UsageError` where there are more than the command takes."""
        with named_in(ctx):
            rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            ctx.fail(f"{ctx.args[0]}: is one argument too many; write `{usage_of(ctx)}`")
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        write_examples(self.examples, formatter)


class Program(click.Group):
    """Group of commands, which is the whole program."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **settings: Any) -> None:
        settings.setdefault("context_settings", HELP_OPTIONS)
        super().__init__(*args, **settings)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options of the program.  Raises `click.UsageError`."""
        with named_in(ctx):
            return super().parse_args(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of one run of the program.  Raises `WrongUsage`."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise rephrase(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.  Raises `WrongUsage` and `Failure`."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise rephrase(error) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name and the command of the arguments, and the rest of these."""
        word = args[0]
        is_known = self.get_command(ctx, word) is not None
        if not (is_known or ctx.resilient_parsing or word.startswith("-")):
            ctx.fail(f"{word}: is not a command; {suggest(word, self.commands)}")
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        write_examples(self.examples, formatter)


@contextmanager
def named_in(ctx: click.Context) -> Iterator[None]:
    """Set the command of each mistake that is raised in this context, if click has not done so."""
    try:
        yield
    except click.UsageError as error:
        if error.ctx is None:
            error.ctx = ctx
        raise


def write_examples(examples: Sequence[Example], formatter: click.HelpFormatter) -> None:
    """Write examples as a section of a help text: each command on a line of its own, which can be copied."""
    if examples:
        with formatter.section("Examples"):
            for command, what in examples:
                formatter.write(f"{'':{formatter.current_indent}}# {what}\n{'':{formatter.current_indent}}{command}\n")


def reject(where: str, message: str) -> NoReturn:
    """Raise the error of an option or an argument, which ends the command with exit code 2."""
    raise click.BadParameter(message, param_hint=where)


def rephrase(error: click.UsageError) -> click.UsageError:
    """Return an error of click with a message of one line in the form of rule 1.

    The help that a program without arguments prints is an error of click too, and is returned unchanged.
    """
    if isinstance(error, WrongUsage | click.exceptions.NoArgsIsHelpError):
        return error
    ctx = error.ctx
    place = f"{ctx.command_path}: " if ctx is not None else ""
    return WrongUsage(place + _describe(error, ctx), ctx)


def _describe(error: click.UsageError, ctx: click.Context | None) -> str:
    """Return the message of an error without its command: option or argument, what is wrong, what would be right."""
    match error:
        case click.NoSuchOption():
            known = [] if ctx is None else [name for each in ctx.command.get_params(ctx) for name in _options(each)]
            return f"{error.option_name}: is not an option; {suggest(error.option_name, known)}"
        case click.MissingParameter():
            write = "" if ctx is None else f"; write `{usage_of(ctx)}`"
            return f"{_hint(error, ctx)}: is missing{write}"
        case click.BadOptionUsage():
            option = next((each for each in _params(ctx) if error.option_name in _options(each)), None)
            if isinstance(option, click.Option) and option.is_flag:
                return f"{error.option_name}: takes no value; write it alone"
            value = option.make_metavar(ctx) if option is not None and ctx is not None else "VALUE"
            return f"{error.option_name}: needs a value; write `{error.option_name} {value}`"
        case click.BadParameter():
            message = error.message.rstrip(".")
            remedy = "" if ";" in message or error.param is None else _remedy(error.param.type)
            return f"{_hint(error, ctx)}: {message}{remedy}"
    return error.format_message()


def _params(ctx: click.Context | None) -> list[click.Parameter]:
    """Return the options and arguments of a command."""
    return [] if ctx is None else ctx.command.get_params(ctx)


def _options(param: click.Parameter) -> list[str]:
    """Return all spellings of an option; none for an argument."""
    return [*param.opts, *param.secondary_opts] if isinstance(param, click.Option) else []


def _hint(error: click.BadParameter, ctx: click.Context | None) -> str:
    """Return the option or the argument that an error is about, as the usage line writes it."""
    if error.param_hint is not None:
        return error.param_hint if isinstance(error.param_hint, str) else ", ".join(error.param_hint)
    param = error.param
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    if param is None or ctx is None:
        return "argument"
    return param.make_metavar(ctx).strip("[]{}.") if param.metavar else param.human_readable_name


def _remedy(kind: click.ParamType[Any]) -> str:
    """Return what would be right for one of click's own types."""
    if isinstance(kind, click.IntRange):
        return f"; write a whole number from {kind.min} to {kind.max}"
    if kind is click.INT:
        return "; write a whole number"
    if isinstance(kind, click.Path):
        return "; name a file that can be read" if kind.exists else "; name a file that can be written"
    return ""


def usage_of(ctx: click.Context) -> str:
    """Return a command with its arguments, such as `sidecar check [OPTIONS] PATH`."""
    return " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean ...?` where a known word is near, else a list of the known words."""
    from sidecar.config.report import suggest as nearest

    return nearest(word, sorted(known))


class InputPath(click.Path):
    """Parameter type: path of an input.  Shells complete it; errors of the file are reported when it is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.  Raises `click.BadParameter` if it is empty, as a variable that is not set would be."""
        if value == "":
            self.fail("is empty; name a file or a directory", param, ctx)
        return super().convert(value, param, ctx)


def describe_path_error(error: OSError, remedy: str) -> str:
    """Return the message of an error about a path, with what would be right.

    `remedy` is what to do if the path does not exist or is of the wrong kind.
    """
    from sidecar.config.report import visible

    message = visible(error.strerror or str(error))
    if ";" in message:
        return message
    if isinstance(error, PermissionError):
        return f"{message}; let the user of this command read it"
    if error.errno == errno.ELOOP:
        return f"{message}; let the link lead to a file"
    return f"{message}; {remedy}"


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: `1 route`, `2 routes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def add_completion(program: Program) -> None:
    """Add the command `completion`, which prints the script that click makes for a shell."""
    name = program.name or ""
    examples = [
        (f'eval "$({name} completion bash)"', "In ~/.bashrc, for bash 4.4 or later."),
        (f"{name} completion zsh > ~/.zfunc/_{name}", "Once, where ~/.zfunc is in fpath."),
        (f"{name} completion fish > ~/.config/fish/completions/{name}.fish", "Once."),
    ]

    @program.command(examples=examples)
    @click.argument("shell", type=Choice(SHELLS))
    def completion(shell: str) -> None:
        """Print the completion script of a shell.

        SHELL is bash, zsh or fish.  The script completes commands, options and paths.
        """
        from click.shell_completion import get_completion_class

        kind = get_completion_class(shell)
        assert kind is not None
        click.echo(kind(program, {}, name, f"_{name}_COMPLETE".upper()).source(), nl=False)
