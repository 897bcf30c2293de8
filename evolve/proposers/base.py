"""Interface of proposers: asked for one program, they answer with text, as a model would."""

from __future__ import annotations

from typing import Protocol

from evolve.proposal import Request, Response


class ProposerError(Exception):
    """The proposer gave up on one proposal; the message says why. The search goes on.

    `spent` holds what its tries cost, where any was billed.
    """

    def __init__(self, message: str, *, spent: Response | None = None) -> None:
        """Keep the reason and the cost."""
        super().__init__(message)
        self.spent = spent


class EndpointError(ProposerError):
    """An endpoint could not be reached, or gave nothing that could be read: the next request may fare likewise."""


class Proposer(Protocol):
    """Makes proposals. Must be deterministic in `Request.seed` where the method allows it."""

    name: str

    async def propose(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            ProposerError: after the proposer's own retries.
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...
