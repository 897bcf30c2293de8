"""Constant fitting inside a search: every n-th proposal of an island is its parent with fitted constants.

All other proposals, and those without an improvement by fitting, come from the wrapped proposer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program
from evolve.config import ConstantsConfig
from evolve.proposal import Calls, Request, Response
from evolve.proposers.base import Prepares, Proposer, ProposerError
from evolve.tuning.constants import ConstantFitter, Fitted, Unfit

MODEL = "constants"
"""Name of the proposer in the journal."""


class FittingProposer:
    """Wrapper of a proposer; deterministic in `Request.seed` if the wrapped one is."""

    def __init__(self, inner: Proposer, judge: Judge, config: ConstantsConfig, *, islands: int) -> None:
        """Wrap a proposer; constants are fitted on the judge's training shapes."""
        self.name = inner.name
        self._inner, self._config, self._islands = inner, config, islands
        self._fitter = ConstantFitter(judge)
        self._fitting = threading.Lock()

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`."""
        if request.correction or (request.index // self._islands) % self._config.every:
            return await self._inner.propose(request)
        started, stopped = time.monotonic(), threading.Event()
        try:
            found = await asyncio.to_thread(self._fit, request, stopped)
        except asyncio.CancelledError:
            # The thread cannot be cancelled, and the run would wait for it at its end.
            stopped.set()
            raise
        except Unfit:
            return await self._inner.propose(request)
        said = f"{found.tunables} numbers, {found.evaluations} evaluations"
        if found.after > found.before:
            note = f"constants: {said}, score {found.before:.4f} to {found.after:.4f}"
            text = f"```python\n{found.source.rstrip()}\n```"
            elapsed = time.monotonic() - started
            return Response(text, MODEL, note, elapsed_s=elapsed, look_ups=found.look_ups)
        try:
            answer = await self._inner.propose(request)
        except ProposerError as failure:
            spent = failure.spent or Response("", "")
            raise type(failure)(str(failure), spent=_added(spent, found)) from failure
        return replace(_added(answer, found), note=f"{answer.note}; constants before: {said}, nothing better")

    def _fit(self, request: Request, stopped: threading.Event) -> Fitted:
        program = parse_program(request.parent.source)
        with self._fitting:
            return self._fitter.fit(
                program,
                stopped=stopped,
                evaluations=self._config.evaluations,
                seed=request.seed,
                method=self._config.method,
            )

    async def prepare(self, kept: str, calls: Calls) -> str:
        """See `Prepares.prepare`."""
        return await self._inner.prepare(kept, calls) if isinstance(self._inner, Prepares) else ""

    async def aclose(self) -> None:
        """Close the wrapped proposer."""
        await self._inner.aclose()


def _added(answer: Response, found: Fitted) -> Response:
    """Answer after an unsuccessful fit, with the fit's look-ups added."""
    return replace(answer, look_ups=answer.look_ups + found.look_ups)
