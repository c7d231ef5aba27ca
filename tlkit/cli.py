"""The command line: reads the words, runs one command, and turns errors into a line and an exit status.

Only the command that runs is imported, and only its options: --help and usage errors load little more than typer.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, cast, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from tlkit import __version__, interruption, options
from tlkit.distributed import env, failures
from tlkit.errors import DONE, ResourceError, TlkitError, UsageError, escape_name, listing, to_tlkit_error
from tlkit.memory_limit import report_exit_of_libraries
from tlkit.options.declare import RENAMED, Options, flag_of, label_of
from tlkit.terminal import STANDARD_ERROR, STANDARD_OUTPUT, output_for_data_alone, print_error


@dataclass(frozen=True)
class CommandEntry:
    """One command. group, summary, prints: for the help. needs: libraries with a minimum version (see versions.py)."""

    group: str
    summary: str
    needs: tuple[str, ...] = ()
    prints: str = ""


READERS = ("torch", "pillow")
MODEL_PATH, FILE_PATH = "Prints the path of the finished model.", "Prints the path of the file."

COMMANDS = {
    "finetune": CommandEntry("Train", "Train a new classifier on a pretrained backbone", READERS, MODEL_PATH),
    "resume": CommandEntry("Train", "Continue a run exactly where it stopped", READERS, MODEL_PATH),
    "tune": CommandEntry(
        "Train", "Search for the best options of finetune", READERS, "Prints the path of the best model."
    ),
    "predict": CommandEntry("Use a model", "Label images: one record per image, in input order", READERS),
    "evaluate": CommandEntry("Use a model", "Measure accuracy, per-class metrics and calibration", READERS),
    "export": CommandEntry("Use a model", "Write a model in another format, and verify it", READERS, FILE_PATH),
    "report": CommandEntry("Use a model", "Write an HTML page about a run", ("pillow",), FILE_PATH),
    "check": CommandEntry("Look around", "Find problems in a folder of images before training", ("pillow",)),
    "backbones": CommandEntry("Look around", "List the available backbones"),
    "fetch": CommandEntry(
        "Look around",
        "Pack pretrained weights for a machine without network",
        READERS,
        "Prints the path of the folder.",
    ),
    "summary": CommandEntry("Look around", "Show layers, parameters and multiply-adds of a network", READERS),
    "cache": CommandEntry("Look around", "List or clear the cached features"),
    "doctor": CommandEntry("Look around", "Show versions, devices and caches, for a bug report"),
}
"""Every command. Its options are the class NameOptions of tlkit.options, its function tlkit.commands.NAME.NAME."""

FAST_EXIT_COMMANDS = ("predict", "evaluate", "summary")
"""Commands that need no cleanup when the interpreter exits."""

COMPLETE = "_TLKIT_COMPLETE"
"""Set by a shell that asks for completions."""


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    open_missing_streams()
    report_exit_of_libraries(prefix_of(command_named(sys.argv[1:])), ResourceError.exit_code)
    status = run(sys.argv[1:])
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)  # C libraries may flush their own output at exit; it is not data
    if command_named(sys.argv[1:]) in FAST_EXIT_COMMANDS:
        os._exit(status)  # everything is written; a regular exit takes a second once torch is loaded
    sys.exit(status)


def open_missing_streams() -> None:
    """Replace standard streams that were closed before the start, so that no other file gets their descriptors.

    Reading a list from the descriptor fails, as it would seem empty; so does writing data, as it would be lost.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)  # takes the descriptor
    for name in closed:
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def run(words: list[str]) -> int:
    """Run one command; errors become one line on standard error and an exit status."""
    settled = failures.fatal_exit_status()
    if settled is not None:
        return settled
    command = command_named(words)
    prefix = prefix_of(command)
    try:
        with interruption.handled(), env.rank_process_setup():
            return failures.status_for_agent(invoke(words))
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        return fail(usage_error(error, command), prefix)
    except interruption.Interrupted as stop:
        interruption.die_by(stop.number)
        raise
    except SystemExit as stop:
        if COMPLETE in os.environ:  # typer exits after printing completions
            return cast(int, stop.code or DONE)
        interruption.die_by(signal.SIGPIPE)  # typer exits when the reader of its help has closed the pipe
        raise
    except UsageError as error:
        error.hint = error.hint or f"Try '{prefix} --help'."
        return fail(error, prefix, traceback_too="--debug" in words)
    except Exception as error:
        return fail(to_tlkit_error(error), prefix, traceback_too="--debug" in words)


def fail(error: TlkitError, prefix: str, traceback_too: bool = False) -> int:
    """Print an error, unless another process reports it. Returns the exit status."""
    lines = [f"{prefix}: {error}{env.rank_suffix()}", *listing(error.listed).splitlines()]
    if error.hint:
        from tlkit.options import suggest

        lines += suggest.applicable(error.hint, prefix.removeprefix("tlkit").strip(), COMMANDS, options_class)
    if traceback_too:
        import traceback

        lines += traceback.format_exc().splitlines()
    if failures.should_report_error(error, lines):
        print_error(*map(escape_name, lines))
    return error.exit_code


def command_named(words: list[str]) -> str:
    """The first word that is not an option."""
    return next((word for word in words if not word.startswith("-")), "")


def prefix_of(command: str) -> str:
    """The start of an error message."""
    return f"tlkit {command}" if command in COMMANDS else "tlkit"


def usage_error(error: typer.TyperException, command: str) -> UsageError:
    """An error of typer's parser as one of tlkit's, with a suggestion."""
    from tlkit.options import suggest

    try_help = f"Try '{prefix_of(command)} --help'."
    flag = getattr(error, "option_name", None)
    if flag is None:
        return UsageError("usage", error.format_message(), try_help)
    if not hasattr(error, "possibilities"):
        return UsageError(flag, "needs a value" if "requires" in error.message else "takes no value", try_help)
    if command not in COMMANDS:
        return UsageError(flag, "is not an option of tlkit", try_help)
    hint = suggest.suggestion(command, flag, options_class(command)) or try_help
    return UsageError(flag, f"is not an option of {command}", hint)


def options_class(command: str) -> type[Options]:
    """The options of a command."""
    return cast(type[Options], getattr(options, f"{command.capitalize()}Options"))


def invoke(words: list[str]) -> int:
    """Parse the words and run the command they name. Returns the exit status; raises errors as they are."""
    command = command_named(words)
    if command and command not in COMMANDS and COMPLETE not in os.environ:
        from tlkit.options import suggest

        raise suggest.unknown_command(command, COMMANDS)
    program = typer.Typer(
        cls=Group,
        add_completion=False,  # typer's own --help and completion options load pydantic; tlkit() has others
        add_help_option=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback(invoke_without_command=True)(tlkit)
    if COMPLETE in os.environ:
        from typer.completion import get_completion_inspect_parameters

        get_completion_inspect_parameters()  # registers the shells
    for name, entry in COMMANDS.items():
        complete = name == command or COMPLETE in os.environ
        program.command(name, cls=Command, help=entry.summary, short_help=entry.summary)(callback_of(name, complete))
    return program(words, prog_name="tlkit", standalone_mode=False) or DONE


def callback_of(command: str, complete: bool) -> Callable[..., int]:
    """The function that typer calls for a command. complete: with the command's options as parameters."""

    def call(**values: object) -> int:
        return execute(command, options_class(command).from_command_line(values))

    parameters = list[inspect.Parameter]()
    if complete:
        from tlkit.options.help import ordered_fields

        kind = options_class(command)
        hints = get_type_hints(kind)
        parameters = [parameter_of(f, hints[f.name], f.name in kind.HIDDEN) for f in ordered_fields(kind)]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def execute(command: str, options: Options) -> int:
    """Import a command and run it. Returns its exit status."""
    from tlkit.versions import require_floor  # 20 ms that help and usage errors do not need

    require_floor(*COMMANDS[command].needs)
    function = getattr(importlib.import_module(f"tlkit.commands.{command}"), command)
    with output_for_data_alone():
        return cast(int, function(options))


def parameter_of(field: dataclasses.Field[object], hint: object, hidden: bool) -> inspect.Parameter:
    """One option as a parameter of typer: a switch, a text or a list of texts; from_command_line converts texts."""
    from tlkit.options.help import completions_of

    literals = completions_of(field, hint)
    old = [flag_of(before) for before, now in RENAMED.items() if now == field.name]
    names = [flag_of(field.name), *filter(None, [field.metadata.get("short")]), *old]
    complete = (lambda: literals) if literals else None
    about = (
        typer.Argument(metavar=field.name.upper())
        if field.metadata.get("positional")
        else typer.Option(*names, help=field.metadata["help"], hidden=hidden, autocompletion=complete)
    )
    kind = list[str] if "list[str]" in str(hint) else bool if hint is bool else str
    annotation = Annotated[kind, about]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


class Command(TyperCommand):
    """A command whose values stay texts, because typer would convert them with pydantic, whose import is slow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, rest, _ = self.make_parser(ctx).parse_args(list(args))
        if ctx.resilient_parsing:  # the shell asks for completions
            return []
        if values.pop("help", False):
            typer.echo(self.get_help(ctx))
            raise typer.Exit
        if rest:
            fields = dataclasses.fields(options_class(str(self.name)))
            arguments = [label_of(field) for field in fields if field.metadata.get("positional")] or ["only options"]
            raise UsageError(rest[0], f"is an unexpected argument; {self.name} takes {' '.join(arguments)}")
        ctx.params = values
        return []

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tlkit.options import help

        name = str(self.name)
        kind = options_class(name)
        summary = f"{COMMANDS[name].summary}. {COMMANDS[name].prints}"
        formatter.write(help.help_text(help.usage_of(name, kind), summary, help.groups_of(kind), kind.EXAMPLES))


class Group(TyperGroup):
    """The program itself."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tlkit.options import help

        rows: dict[str, list[help.Row]] = {}
        for name, entry in COMMANDS.items():
            rows.setdefault(entry.group, []).append((name, entry.summary))
        rows["Options"] = [(", ".join(p.opts), p.help) for p in self.params]  # type: ignore[attr-defined]
        summary = "Train image classifiers from a folder of images, by transfer learning."
        formatter.write(help.help_text("tlkit COMMAND [OPTIONS] ...", summary, rows, EXAMPLES))


EXAMPLES = (
    "tlkit finetune photos --out runs/flowers",
    "tlkit predict runs/flowers new-photos",
    "tlkit COMMAND --help",
)


def tlkit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit")] = False,
    install_completion: Annotated[
        bool, typer.Option("--install-completion", help="Install completion for the current shell")
    ] = False,
    show_completion: Annotated[
        bool, typer.Option("--show-completion", help="Print the completion script of the current shell")
    ] = False,
    help: Annotated[bool, typer.Option("-h", "--help", help="Show this help and exit")] = False,
) -> None:
    """The program without a command."""
    if help:
        typer.echo(context.get_help())
    elif version:
        typer.echo(f"tlkit {__version__}")
    elif install_completion or show_completion:
        from typer.completion import install_callback, show_callback

        try:
            (install_callback if install_completion else show_callback)(context, context.command.params[0], True)
        except SystemExit as stop:
            raise typer.Exit(cast(int, stop.code or DONE)) from None
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        return
    raise typer.Exit
