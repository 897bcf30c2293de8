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
    """The run was stopped by Ctrl-C; its journal is complete and the run can be resumed."""
