"""Exit codes of commands, and `error:` and `hint:` lines for users' mistakes."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from evolve.errors import EXIT_INTERRUPTED, EXIT_MISSING, EXIT_USAGE, InterruptedRun, UserError

_KEPT = ContextVar("_KEPT", default="")
"""What the verb under way says when it is stopped; empty while it has written nothing."""


def kept_at_stop(text: str) -> None:
    """State what stays, and how to go on, if Ctrl-C ends the verb from now on."""
    _KEPT.set(f"stopped; {text}")


class Verbs(TyperGroup):
    """The verbs; Ctrl-C in one ends it with a line about what stays. Typer alone would end it without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Call a verb.

        Raises:
            InterruptedRun: Ctrl-C.
        """
        before = _KEPT.set("")
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, InterruptedRun) as stop:
            # A search names its own folder, which passes where a verb runs several.
            raise InterruptedRun(_KEPT.get() or str(stop) or "stopped; no result was written") from None
        finally:
            _KEPT.reset(before)


@contextlib.contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """Make SIGTERM (schedulers) and SIGHUP (closed terminals) stop a command like Ctrl-C; `nohup` keeps its effect."""

    def stop(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    taken = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def guarded(command: Callable[[], Any]) -> NoReturn:
    """Run a command and exit with its code; turns users' mistakes into `error:` and `hint:` lines."""
    try:
        with stopped_as_by_ctrl_c():
            code = command()
        sys.exit(code)
    except UserError as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        _usage(error)
        sys.exit(EXIT_USAGE)
    except InterruptedRun as stop:
        typer.echo(str(stop), err=True)
        sys.exit(EXIT_INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        found = _known(error)
        if found is None:
            raise
        import sqlite3

        disk = isinstance(error, OSError | sqlite3.Error) and found == EXIT_MISSING
        text = f"{error.filename or 'output'}: {error.strerror}" if isinstance(error, OSError) else str(error)
        _complain(text, "see to the disk; what is stored stays" if disk else "")
        sys.exit(found)


def _known(error: Exception) -> int | None:
    """Exit code of the judge's own exceptions; None for bugs, which keep their traceback."""
    import sqlite3

    from evaluators.latencies.store import StoreError
    from evaluators.latencies.table import TableError
    from evaluators.measure.errors import MeasureError, RecordingError
    from evaluators.measure.providers import ProviderUnavailable
    from evaluators.sandbox.sandbox import SandboxUnavailable

    # A full, broken, read-only or foreign disk is not a bug, wherever the error occurs.
    faults = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in faults:
        return EXIT_MISSING
    # Any argument may be a path that is too long even to look for.
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return EXIT_USAGE
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        return EXIT_MISSING
    if isinstance(error, MeasureError | ProviderUnavailable | SandboxUnavailable):
        return EXIT_MISSING
    return EXIT_USAGE if isinstance(error, RecordingError | StoreError | TableError) else None


def _usage(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "evosplit"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
    else:
        _complain(error.format_message(), f"{command} --help")


def _complain(message: str, hint: str) -> None:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
