"""Best of N: asks the proposer N times to improve a seed, without its own earlier results."""

from __future__ import annotations

import asyncio

from evolve.baselines.problem import Counted, Problem
from evolve.baselines.tally import Tally
from evolve.prompts.lessons import Lessons
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import load_templates
from evolve.proposal import ProgramRecord, Request
from evolve.proposers import open_proposer
from evolve.proposers.base import ProposerError
from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from


def best_of_n(problem: Problem, tally: Tally, seed: int) -> None:
    """Spend the budget on independent improvements of the seeds."""
    asyncio.run(_search(problem, tally, seed))


async def _search(problem: Problem, tally: Tally, seed: int) -> None:
    parents = [ProgramRecord(i, source, tally.judge(source)) for i, source in enumerate(problem.seeds)]
    proposer = Counted(open_proposer(problem.config.proposer), tally)
    prompts = Prompts(
        load_templates(problem.config.prompts, problem.judge.description["setting"]), problem.judge.description
    )
    index = len(parents)
    try:
        while not tally.stopped_by:
            parent = parents[index % len(parents)]
            diff = index % 2 == 0
            request = Request(
                index=index,
                island=index % problem.config.search.islands,
                parent=parent,
                inspirations=(),
                system=prompts.system,
                user=prompts.user(parent, (), Lessons(), diff=diff),
                diff=diff,
                seed=seed * 1_000_003 + index,
            )
            index += 1
            try:
                answer = await proposer.propose(request)
                source = program_from(answer.text, parent.source)
            except ProposerError:
                continue
            except (UnreadableAnswer, FrozenCodeChanged):
                tally.failed()
                continue
            tally.judge(source)
    finally:
        await proposer.aclose()
