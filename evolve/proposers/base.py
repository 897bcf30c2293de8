"""Interface of proposers: asked for one program, they answer with text, as a model would."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from evolve.errors import UserError
from evolve.proposal import Calls, Request, Response


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


class RequestRefused(ProposerError):
    """An endpoint answered this request for good, and not with a program: the next request may fare likewise."""


class EndpointStopped(UserError):
    """No request can succeed: the key, the model or the account. The run stops, and can be resumed."""


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


@runtime_checkable
class Prepares(Protocol):
    """A proposer that finds out something before the first request of a run."""

    async def prepare(self, kept: str, calls: Calls) -> str:
        """Get ready.

        Args:
            kept: what an earlier start of the run returned here; empty at the first.
            calls: where the calls that this takes are accounted for.

        Returns:
            What to keep with the run.

        Raises:
            EndpointStopped: no request would succeed.
        """
        ...
