"""Errors that users can fix, and the exit codes of the command line."""

from __future__ import annotations

from evaluators.data.errors import EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_MISSING, EXIT_NEGATIVE, EXIT_USAGE, UserError

__all__ = [
    "EXIT_BUDGET",
    "EXIT_INTERRUPTED",
    "EXIT_MISSING",
    "EXIT_NEGATIVE",
    "EXIT_USAGE",
    "InterruptedRun",
    "UserError",
]


class InterruptedRun(Exception):
    """Ctrl-C stopped a run, whose journal is complete and which can be resumed, or a verb; the text says what stays."""
