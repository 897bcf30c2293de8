"""Failures of measurements, and their kinds."""

from __future__ import annotations

from enum import StrEnum


class MeasureErrorKind(StrEnum):
    """Kind of failure of a measurement."""

    UNAVAILABLE = "unavailable"
    """Nothing can be measured here: no GPU, no provider, MIG, or another process on the GPU."""
    WRONG = "wrong"
    """An output disagreed with the reference."""
    MEMORY = "memory"
    """The GPU's memory is too small for this shape."""
    REFUSED = "refused"
    """The library rejected the call."""
    LOST = "lost"
    """The GPU or the worker stopped answering."""
    DEADLY = "deadly"
    """Several workers of a pool were lost during this launch."""


class MeasureError(Exception):
    """A measurement failed; earlier measurements are kept."""

    def __init__(self, kind: MeasureErrorKind, message: str) -> None:
        """Store the kind and the message."""
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        """The message without the kind."""
        return str(self.args[1])


class WorkerLost(Exception):
    """The worker died, was killed, or its GPU stopped answering; the message gives details."""


class RecordingError(Exception):
    """The recording cannot start or continue; the message gives the reason."""
