"""The command line: one thin function for each command, imported only when it is called."""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from tlkit import __version__, interruption
from tlkit import options as declared
from tlkit.distributed import env, failures
from tlkit.errors import DONE, TlkitError, UsageError, escape_name, to_tlkit_error
from tlkit.options.declare import Options, flag_of, kinds_of
from tlkit.terminal import STANDARD_ERROR, STANDARD_OUTPUT, output_for_data_alone, print_error

Declared = TypeVar("Declared", bound=Options)


class AsTyped:
    """Hands values on as the text that was typed; options.py knows what each is to be.

    typer would convert them by pydantic, whose import takes longer than all else that a usage error needs. A version of
    typer that has no such place for a converter converts as it likes, which does no harm.
    """

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        for parameter in self.get_params(context):  # type: ignore[attr-defined]
            parameter._runtime_param = self
        return super().parse_args(context, arguments)  # type: ignore[misc,no-any-return]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """As typer calls a converter; a positional argument of many is never None."""
        return [] if value is None and param.nargs == -1 else value


class Command(AsTyped, TyperCommand):
    """A command that leaves its values as text."""


class Group(AsTyped, TyperGroup):
    """The program itself, likewise."""


app = typer.Typer(
    name="tlkit",
    cls=Group,
    help="Turn a folder of images into a classifier: transfer learning from the shell.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    open_missing_streams()
    status = run(sys.argv[1:])
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)  # what C libraries hold back until the end is no data either
    if command_named(sys.argv[1:]) in FAST_EXIT_COMMANDS:
        os._exit(status)  # all is written; the interpreter's own way takes a second once torch is loaded
    sys.exit(status)


FAST_EXIT_COMMANDS = ("predict", "evaluate", "summary")
"""Commands that open nothing for which someone else has to tidy up when the interpreter ends."""


def open_missing_streams() -> None:
    """Stand-ins for standard streams that were closed before the start, so that nothing else gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            if name == "stdout":
                os.open(os.devnull, os.O_RDONLY)  # gets the number, and refuses data, which would be lost there
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def run(arguments: list[str]) -> int:
    """Run one command; errors become one line on standard error and an exit status."""
    settled = failures.fatal_exit_status()
    if settled is not None:
        return settled
    command = command_named(arguments)
    prefix = f"tlkit {command}" if command in registered_commands() else "tlkit"
    try:
        with interruption.handled(), env.rank_process_setup():
            return failures.status_for_agent(app(arguments, standalone_mode=False) or DONE)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        subject, problem = describe_usage_error(error)
        return fail(UsageError(subject, problem, f"Try '{prefix} --help'."), prefix)
    except interruption.Interrupted as stop:
        interruption.die_by(stop.number)
        raise
    except SystemExit:  # how typer takes it that nobody reads its help
        interruption.die_by(signal.SIGPIPE)
        raise
    except Exception as error:
        return fail(to_tlkit_error(error), prefix, traceback_too="--debug" in arguments)


def fail(error: TlkitError, prefix: str, traceback_too: bool = False) -> int:
    """Say what went wrong, if that is for this process to say. Returns the exit status."""
    lines = [f"{prefix}: {error}{env.rank_suffix()}", *error.hint.splitlines()]
    if traceback_too:
        import traceback

        lines += traceback.format_exc().splitlines()
    if failures.should_report_error(error, lines):
        print_error(*map(escape_name, lines))
    return error.exit_code


def command_named(arguments: list[str]) -> str:
    """The first word that is no flag."""
    return next((word for word in arguments if not word.startswith("-")), "")


def registered_commands() -> set[str]:
    """The names of all commands."""
    return {command.name for command in app.registered_commands if command.name}


def describe_usage_error(error: typer.TyperException) -> tuple[str, str]:
    """The flag that is wrong, and what is wrong with it."""
    parameter = getattr(error, "param", None)
    if parameter is None:
        return "usage", error.format_message()
    is_option = parameter.param_type_name == "option"
    subject = max(parameter.opts, key=len) if is_option else parameter.display_name_raw
    return subject, error.message or "is missing"


def command(kind: type[Declared], needs: tuple[str, ...] = ()) -> Callable[[Callable[[Declared], int]], Any]:
    """Register a function of one options object as a command whose flags are the object's fields.

    needs: the libraries through which it reads files from outside.
    """

    def register(function: Callable[[Declared], int]) -> Callable[[Declared], int]:
        def call(**values: Any) -> int:
            options = kind.from_command_line(values)
            from tlkit.versions import require_floor  # 20 ms that help and usage errors need not wait

            require_floor(*needs)
            with output_for_data_alone():
                return function(options)

        call.__doc__ = function.__doc__
        call.__signature__ = inspect.Signature(parameters_of(kind))  # type: ignore[attr-defined]
        app.command(function.__name__, cls=Command)(call)
        return function

    return register


def parameters_of(kind: type[Options]) -> list[inspect.Parameter]:
    """A command's parameters as typer reads them, derived from the dataclass: arguments first, then what is its own,
    then what it shares with others."""
    hints = get_type_hints(kind)
    place = {
        name: place
        for place, parent in reversed([*enumerate(kind.__mro__)])
        for name in inspect.get_annotations(parent)
    }
    fields = sorted(
        dataclasses.fields(kind), key=lambda field: (not field.metadata.get("positional"), place[field.name])
    )
    return [parameter_of(field, hints[field.name], field.name in kind.HIDDEN) for field in fields]


def parameter_of(field: dataclasses.Field[Any], hint: Any, hidden: bool) -> inspect.Parameter:
    """One dataclass field as one typer parameter."""
    declared_as = field.metadata
    if declared_as.get("positional"):
        about = typer.Argument(help=declared_as["help"], metavar=declared_as["metavar"] or field.name.upper())
    else:
        names = [flag_of(field.name)] + ([declared_as["short"]] if declared_as["short"] else [])
        about = typer.Option(
            *names,
            help=declared_as["help"],
            min=declared_as["min"],
            max=declared_as["max"],
            metavar=declared_as["metavar"],
            show_default=field.default not in (None, False),
            hidden=hidden,
        )
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[shown_as(hint), about]
    )


def shown_as(hint: Any) -> Any:
    """A type that typer knows how to show: values are handed on as text in any case."""
    own = [kind for kind in kinds_of(hint) if kind is not type(None)]
    return hint if len(own) == 1 else str


@app.callback(invoke_without_command=True)
def tlkit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Turn a folder of images into a classifier: transfer learning from the shell."""
    if version:
        typer.echo(f"tlkit {__version__}")
        raise typer.Exit


READERS = ("torch", "pillow")


@command(declared.FinetuneOptions, needs=READERS)
def finetune(options: declared.FinetuneOptions) -> int:
    """Train a new head on a pretrained backbone; prints the path of the finished model."""
    from tlkit.commands.finetune import finetune

    return finetune(options)


@command(declared.ResumeOptions, needs=READERS)
def resume(options: declared.ResumeOptions) -> int:
    """Go on exactly where a run stopped; prints the path of the finished model."""
    from tlkit.commands.resume import resume

    return resume(options)


@command(declared.TuneOptions, needs=READERS)
def tune(options: declared.TuneOptions) -> int:
    """Search for the options of finetune that suit a folder best; prints the path of the best trial."""
    from tlkit.commands.tune import tune

    return tune(options)


@command(declared.PredictOptions, needs=READERS)
def predict(options: declared.PredictOptions) -> int:
    """Label images: one record for each, in the order given."""
    from tlkit.commands.predict import predict

    return predict(options)


@command(declared.EvaluateOptions, needs=READERS)
def evaluate(options: declared.EvaluateOptions) -> int:
    """Measure a model on labelled images: accuracy, figures for each class, confusion, calibration."""
    from tlkit.commands.evaluate import evaluate

    return evaluate(options)


@command(declared.ReportOptions, needs=("pillow",))
def report(options: declared.ReportOptions) -> int:
    """Write a page about a run: curves, figures for each class, mistakes, calibration; prints its path."""
    from tlkit.commands.report import report

    return report(options)


@command(declared.CheckOptions, needs=("pillow",))
def check(options: declared.CheckOptions) -> int:
    """Find what would spoil training on a folder, before anyone trains on it."""
    from tlkit.commands.check import check

    return check(options)


@command(declared.ExportOptions, needs=READERS)
def export(options: declared.ExportOptions) -> int:
    """Write the model in another format, and read it back before saying so; prints the path."""
    from tlkit.commands.export import export

    return export(options)


@command(declared.BackbonesOptions)
def backbones(options: declared.BackbonesOptions) -> int:
    """List the backbones that can be loaded."""
    from tlkit.commands.backbones import backbones

    return backbones(options)


@command(declared.SummaryOptions, needs=READERS)
def summary(options: declared.SummaryOptions) -> int:
    """Show layers, parameters frozen and trainable, and multiply-adds."""
    from tlkit.commands.summary import summary

    return summary(options)


@command(declared.CacheOptions)
def cache(options: declared.CacheOptions) -> int:
    """List the vectors kept between runs: backbone, weights, precision, engine, vectors, bytes, last use, folder."""
    from tlkit.commands.cache import cache

    return cache(options)


@command(declared.DoctorOptions)
def doctor(options: declared.DoctorOptions) -> int:
    """Show versions, devices and caches: what a report of a problem should name."""
    from tlkit.commands.doctor import doctor

    return doctor(options)
