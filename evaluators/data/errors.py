"""Errors that a user can fix, and exit codes of the command line."""

from __future__ import annotations

EXIT_NEGATIVE = 1
EXIT_USAGE = 2
EXIT_MISSING = 3
EXIT_BUDGET = 4
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake or a missing prerequisite; printed as `error:` and `hint:` lines, never as a traceback."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = EXIT_USAGE) -> None:
        """Store message, hint and exit code."""
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
