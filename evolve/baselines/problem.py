"""Problem of all baselines, and a proposer that counts its calls."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.judge.judge import Judge
from evolve.baselines.tally import ComparisonBudgetSpent, Tally
from evolve.config import RunConfig
from evolve.proposal import Request, Response
from evolve.proposers.base import Proposer, ProposerError
from evolve.run import open_configured_judge


@dataclass(frozen=True, slots=True)
class Problem:
    """One search problem.

    Attributes:
        config: configuration of the search that the baselines are compared with.
    """

    config: RunConfig
    judge: Judge
    seeds: tuple[str, ...]
    policy: str


def table_judge(config: RunConfig) -> Judge:
    """Open the judge of a search on one recorded table.

    Raises:
        UserError: there is no sandbox here, or the table is missing.
        TableError: the table is damaged.
    """
    judge = open_configured_judge(config)
    assert isinstance(judge, Judge), "baselines judge on one table"
    return judge


class Counted:
    """Wraps a proposer: counts its calls and look-ups, and fails when a budget has run out."""

    def __init__(self, inner: Proposer, tally: Tally, *, calls: bool = True, look_ups: bool = True) -> None:
        """Count calls, look-ups, or both."""
        self.name = inner.name
        self._inner, self._tally, self._calls, self._look_ups = inner, tally, calls, look_ups

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`."""
        try:
            if self._calls:
                self._tally.call()
            else:
                self._tally.check()
        except ComparisonBudgetSpent as spent:
            raise ProposerError(f"budget: {spent}") from None
        try:
            answer = await self._inner.propose(request)
        except ProposerError as failure:
            self._count(failure.spent)
            raise
        self._count(answer)
        return answer

    def _count(self, said: Response | None) -> None:
        if said is not None and self._look_ups:
            self._tally.look_up(said.look_ups)

    async def aclose(self) -> None:
        """Close the proposer."""
        await self._inner.aclose()
