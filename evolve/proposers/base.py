"""Interface of proposers, which answer a request for one program with text, as a model would."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from evolve.errors import UserError
from evolve.proposal import Calls, Request, Response


class ProposerError(Exception):
    """The proposer gave up on one proposal; the message gives the reason. The search continues.

    `spent` has the cost of its tries, if any was billed.
    """

    def __init__(self, message: str, *, spent: Response | None = None) -> None:
        """Store the reason and the cost."""
        super().__init__(message)
        self.spent = spent


class EndpointError(ProposerError):
    """An endpoint could not be reached, or returned nothing readable; the next request may fail likewise."""


class RequestRefused(ProposerError):
    """An endpoint refused this request finally; the next request may fail likewise."""


class EndpointStopped(UserError):
    """No request can succeed, because of the key, the model or the account. The run stops, and can be resumed."""


class Proposer(Protocol):
    """Source of proposals. Must be deterministic in `Request.seed` if the method allows it."""

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
    """A proposer with a preparation before the first request of a run."""

    async def prepare(self, kept: str, calls: Calls) -> str:
        """Prepare for requests.

        Args:
            kept: return value of an earlier start of the run; empty at the first.
            calls: account of the calls.

        Returns:
            Data to store with the run.

        Raises:
            EndpointStopped: no request would succeed.
        """
        ...
