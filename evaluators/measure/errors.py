"""Failures of measurements, and whether to go on after one."""

from __future__ import annotations

from enum import StrEnum


class MeasureErrorKind(StrEnum):
    """Why a measurement failed."""

    UNAVAILABLE = "unavailable"
    """No GPU, no provider, MIG, another process on the GPU: nothing can be measured here."""
    WRONG = "wrong"
    """An output disagreed with the reference."""
    MEMORY = "memory"
    """The GPU's memory does not hold this shape."""
    REFUSED = "refused"
    """The library refused the call."""
    LOST = "lost"
    """The GPU or the worker stopped answering."""
    DEADLY = "deadly"
    """Several workers of a pool were lost over this launch."""


class MeasureError(Exception):
    """A measurement failed; what was measured before is kept."""

    def __init__(self, kind: MeasureErrorKind, message: str) -> None:
        """Keep the kind and what to tell the user."""
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[1])


class WorkerLost(Exception):
    """The worker died, was killed, or its GPU stopped answering; the message says what is known."""


class RecordingError(Exception):
    """The recording cannot start or go on; the message says why."""
