"""The fast score is the judge's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import FA3_SETTINGS, ROOT, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.fast_score import FAILED, MISSING, OK, REGRESSION, Scorer
from evaluators.judge.judge import Judge
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.scoring.score import MISSING_LOG_SPEEDUP
from evaluators.targets.fa3 import FA3

FILES = [
    p for p in sorted((ROOT / "seeds").glob("*.py")) if p.stem not in ("always_1", "always_2", "always_3", "always_8")
]
FILES.append(ROOT / "results" / "quickstart" / "best.py")
"""Of the seeds that always split alike, one."""


@pytest.fixture(scope="module")
def scorers(judges: Mapping[str, Judge]) -> Callable[[str], Scorer]:
    """By setting, each made once."""
    return cache(lambda setting: Scorer(judges[setting]))


# The hot table has the shapes and launches of the cold one.
@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=pytest.mark.slow) if s.endswith("hot") else s for s in SETTINGS]
)
def test_scores_as_the_judge(setting: str, judges: Mapping[str, Judge], scorers: Callable[[str], Scorer]) -> None:
    judge, scorer = judges[setting], scorers(setting)
    scored = 0
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        evaluation = judge.evaluate(source)
        if evaluation.status is not Status.OK:
            continue
        fits = scorer.fits(DecisionArrays.of(judge.target, evaluation.decisions))
        scored += 1
        assert fits is not None
        for split, score in ((Split.TRAIN, evaluation.train), (Split.HOLDOUT, evaluation.holdout)):
            assert score is not None
            fit = fits[split]
            assert fit.score == pytest.approx(score.score, rel=1e-12)
            assert np.exp(fit.log_gain) == pytest.approx(score.geomean_speedup, rel=1e-12)
            assert fit.regressions == score.regressions
    assert scored >= 4


@settings(max_examples=examples(15), deadline=None)
@given(
    num_splits=st.integers(0, 256),
    pack_gqa=st.sampled_from([-1, 0, 1]),
    sm_margin=st.sampled_from([0, 0, 0, 2]),
    blocks=st.integers(0, 400),
    setting=st.sampled_from(FA3_SETTINGS),
)
def test_looks_up_what_the_judge_says(
    num_splits: int,
    pack_gqa: int,
    sm_margin: int,
    blocks: int,
    setting: str,
    judges: Mapping[str, Judge],
    scorers: Callable[[str], Scorer],
) -> None:
    judge = judges[setting]
    lanes = len(judge.cases)
    rows = np.tile(np.array([num_splits, pack_gqa, sm_margin, blocks], np.int64), (lanes, 1))
    log, state = scorers(setting).look_up(DecisionArrays(FA3, rows))
    decision = Decision(num_splits, (None, False, True)[pack_gqa + 1], sm_margin, blocks)
    for lane in range(0, lanes, 97):
        outcome = judge.outcome(judge.cases[lane].id, decision)
        if outcome.result is None:
            missing = outcome.status is Status.UNRECORDED
            assert state[lane] == (MISSING if missing else FAILED)
            assert not missing or log[lane] == MISSING_LOG_SPEEDUP
        else:
            assert log[lane] == outcome.result.log_speedup
            assert state[lane] == (REGRESSION if outcome.result.regression else OK)


def test_blocks_beyond_the_longest_sequence_are_one_launch(judge: Judge) -> None:
    for case in judge.cases[::53]:
        last = 1 + judge.most_blocks(case.id)
        one = judge.outcome(case.id, Decision(8, None, 0, last))
        other = judge.outcome(case.id, Decision(8, None, 0, last + 1000))
        assert replace(one, spelled=other.spelled, shown=other.shown) == other or one.status is not Status.OK


def test_knows_answers_that_it_has_given(judge: Judge) -> None:
    scorer = Scorer(judge)
    decisions = DecisionArrays.of(FA3, judge.evaluate(FILES[0].read_text(encoding="utf-8")).decisions)
    first = scorer.fits(decisions)
    asked = scorer.asked
    assert asked == len(judge.cases) and scorer.fits(decisions) == first and scorer.asked == asked
