"""Command line: one file per verb.

Verbs import what they need when they are called, so that `evosplit --help` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer

from evolve import __version__
from evolve.cli import config, decide, diff, doctor, evaluate, ls, run, show
from evolve.errors import EXIT_INTERRUPTED, EXIT_USAGE, InterruptedRun, UserError

app = typer.Typer(
    name="evosplit",
    help="Evolves scheduling heuristics for FlashAttention-3 decode, judged on latencies measured on a real GPU.",
    no_args_is_help=True,
    add_completion=False,
    # Rich help costs 0.1 s and draws boxes around one-line texts.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 negative verdict, 2 usage or configuration, 3 missing prerequisite, "
    "4 stopped at a budget (resumable), 130 interrupted (resumable).",
)


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"evosplit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool | None = typer.Option(None, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("doctor")(doctor.doctor)
app.command("run")(run.run)
app.command("evaluate")(evaluate.evaluate)
app.command("decide")(decide.decide)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("diff")(diff.diff)
app.add_typer(config.app, name="config")


def _complain(message: str, hint: str = "") -> None:
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")


def invoke(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; users' mistakes end in two lines, never in a traceback."""
    try:
        code = app(arguments, standalone_mode=False)
    except UserError as error:
        _complain(str(error), error.hint)
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "evosplit"
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
        else:
            _complain(error.format_message(), f"{command} --help lists what there is")
        return EXIT_USAGE
    except InterruptedRun as stop:
        sys.stderr.write(f"{stop}\n")
        return EXIT_INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`evosplit ls | head`); nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the command `evosplit`."""
    sys.exit(invoke())
