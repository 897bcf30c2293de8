"""Prompts tell nothing of the holdout: neither its shapes nor what depends on their latencies."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL_TABLE, seed
from small_search import SEED, SmallJudge, SmallProposer, config

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split, Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.table import read_table
from evaluators.sandbox.sandbox import Limits
from evaluators.scoring.feedback import ShapeWriter
from evolve.journal.journal import FILE_NAME, Journal
from evolve.proposal import Request, Response
from evolve.search.controller import Controller, read_journal


class OtherHoldout(SmallJudge):
    """Evaluation with the same training scores and other ones on the holdout."""

    def evaluate(self, source: str) -> Evaluation:
        found = super().evaluate(source)
        if found.holdout is None or found.train is None:
            return found
        return replace(found, holdout=replace(found.holdout, score=2 - found.train.score))


def test_prompts_do_not_depend_on_the_holdout(tmp_path: Path) -> None:
    asked = []
    for name, judge in (("one", SmallJudge()), ("other", OtherHoldout())):
        (tmp_path / name).mkdir()
        Controller(config(), judge, SmallProposer(), tmp_path / name, seeds=[SEED]).run()
        content = Journal(tmp_path / name / FILE_NAME, read_only=True).content()
        asked.append(content["proposals"])
        statuses = [row["status"] for row in content["results"]]
        assert "unstable" in statuses
    assert asked[0] == asked[1]


@pytest.fixture(scope="module")
def small() -> Judge:
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


def program(body: str) -> str:
    return f"# EVOLVE-BLOCK-START\ndef schedule(shape, gpu):\n{body}\n\n\n# EVOLVE-BLOCK-END\n"


def rows(cases: list[Case], answer: str) -> str:
    """A rule for each of these shapes."""
    return "".join(
        f"    if shape.batch == {c.shape.batch} and shape.seqlen_k == {c.shape.seqlen_k} and shape.num_heads_q == "
        f"{c.shape.num_heads_q} and shape.num_heads_kv == {c.shape.num_heads_kv}:\n        {answer}\n"
        for c in cases
    )


def hostile(judge: Judge) -> list[str]:
    """Programs that would make a judge talk of its holdout: they raise, fail or cannot be scored there alone."""
    held = [c for c in judge.cases if c.split is Split.HOLDOUT]
    assert held
    rest = "    return 0, None, 0"
    answers = [
        "x = 1 // 0",
        "x = [1][shape.seqlen_k]",
        "x = {1: 2}[shape.seqlen_k]",
        "return shape.seqlen_k * 1000, None, 0",
        "return 1.5, None, 0",
        "return 128, None, 0",
        "return 97, None, 0",
        "return 2, None, 0",
    ]
    found = [program(rows(held[:30], answer) + rest) for answer in answers]
    # One step beside a shape of the holdout, as the recheck asks.
    found += [
        program(f"    if shape.seqlen_k == {c.shape.seqlen_k + 1}:\n        x = 1 // 0\n{rest}") for c in held[:4]
    ]
    found.append(program(f"    return {64 if held[0].shape.batch < 9 else 32}, None, 0"))
    table = ", ".join(str((c.shape.seqlen_k << 16) + i) for i, c in enumerate(judge.cases))
    found.append(program(f"    known = [{table}]\n    return 1 + known[shape.batch] % 2, None, 0"))
    return found


class Hostile:
    """Answers with one such program after the other."""

    name = "hostile"

    def __init__(self, sources: list[str]) -> None:
        self._sources = itertools.cycle(sources)

    async def propose(self, request: Request) -> Response:
        return Response(f"```python\n{next(self._sources)}```", "hostile")

    async def aclose(self) -> None:
        pass


def test_no_prompt_names_a_holdout_or_sealed_shape(small: Judge, tmp_path: Path) -> None:
    sources = hostile(small)
    folder = tmp_path / "run"
    folder.mkdir()
    own = config(proposals=2 * len(sources), window=1, islands=1, parallel_proposals=1)
    Controller(own, small, Hostile(sources), folder, seeds=[seed("bsc_published")]).run()
    entries = read_journal(folder)
    told = "\n".join(f"{e.system}\n{e.user}\n{e.message}\n{e.feedback}" for e in entries)
    told = re.sub(r"```python\n.*?```", "", told, flags=re.DOTALL)  # the programs' own text
    statuses = {e.status for e in entries}
    assert {Status.RAISED, Status.BAD_ANSWER, Status.OK, Status.DUPLICATE} <= statuses
    assert "at a shape that is not shown" in told and "By region" in told
    writer = ShapeWriter(small.setting, small.gpu)
    by_split: dict[Split, set[str]] = {}
    known = {o.name: o for o in small.evaluate(seed("bsc_published")).feedback.opportunities}
    some = next(iter(known.values()))
    for case in read_table(SMALL_TABLE).cases:
        texts = by_split.setdefault(case.split, set())
        work = known[case.id].work if case.id in known else {}
        view = {**some.view, "num_n_blocks": -(-case.shape.seqlen_k // int(some.view["block_n"]))}
        texts.add(writer.shape(replace(some, shape=case.shape, view=view, work=work)))
        texts.add(
            f"batch={case.shape.batch}, seqlen_k={case.shape.seqlen_k}, num_heads_q={case.shape.num_heads_q}, "
            f"num_heads_kv={case.shape.num_heads_kv},"
        )
        if case.split is not Split.TRAIN:
            assert case.id not in told
    hidden = (by_split[Split.HOLDOUT] | by_split[Split.TEST]) - by_split[Split.TRAIN]
    assert len(hidden) > 20
    assert [text for text in hidden if text in told] == []
    assert any(text in told for text in by_split[Split.TRAIN])


def test_a_recheck_is_silent_of_the_holdout(small: Judge) -> None:
    found = {small.recheck(s, e).message for s in hostile(small) if (e := small.evaluate(s)).status is Status.OK}
    held = [c for c in small.cases if c.split is Split.HOLDOUT]
    assert any("not shown" in message for message in found)
    assert not [
        c.id for c in held for message in found if c.id in message or f"seqlen_k={c.shape.seqlen_k}," in message
    ]
