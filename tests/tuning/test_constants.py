"""Constant fitting: which numbers move, what is found, and how it enters a search."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ON_SMALL, ROOT, Command

from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program
from evaluators.language.literals import Number
from evolve.config import ConstantsConfig, RunConfig, SearchConfig
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.proposer_config import OfflineConfig
from evolve.proposers import open_proposer
from evolve.proposers.fitting import MODEL, FittingProposer
from evolve.search.controller import Controller, read_journal
from evolve.tuning.constants import ConstantFitter, Unfit, coordinate_search, search_of
from evolve.tuning.tunables import LEAST, Tunable, rewritten, tunables

BLOCK = """# outside: 9
LIMIT = 5

# EVOLVE-BLOCK-START
SHARE = 0.8


def schedule(shape, gpu):
    if shape.batch > 6 and shape.seqlen_k <= 4000:  # große Zahl
        return [1, 2, 3][2], None, 0
    for i in range(7):
        pass
    return min(32, math.ceil(shape.num_n_blocks * SHARE)), None, 0
# EVOLVE-BLOCK-END
"""
POLICY = """def schedule(shape, gpu):
    if shape.total_mblocks * shape.num_n_blocks > 64:
        return 1, None, 0
    return max(1, min(16, 30 // shape.total_mblocks)), None, 0
"""


def test_lifts_sizes_and_leaves_structure_and_frozen_code_alone() -> None:
    known = tunables(parse_program(BLOCK))
    assert [t.value for t in known] == [0.8, 6, 4000, 2, 3, 32]
    assert [(t.low, t.high) for t in known[:2]] == [(0.1, 6.4), (1.0, 48.0)]


def test_marks_choose_and_bound() -> None:
    marked = BLOCK.replace("SHARE = 0.8", "SHARE = 0.8  # tune 0.5..2").replace("range(7):", "range(7):  # tune")
    known = tunables(parse_program(marked))
    assert [(t.value, t.low, t.high) for t in known] == [(0.8, 0.5, 2.0), (7, 1.0, 56.0)]


def test_a_lower_bound_of_0_leaves_the_number_positive() -> None:
    found = tunables(parse_program(BLOCK.replace("SHARE = 0.8", "SHARE = 0.8  # tune 0..2")))
    assert [(t.low, t.high) for t in found] == [(0.8 * LEAST, 2.0)]


def test_rewrites_only_the_numbers() -> None:
    program = parse_program(BLOCK)
    known = tunables(program)
    text = rewritten(program, [(known[0], 1.25), (known[2], 7), (known[5], 128)])
    wanted = BLOCK.replace("0.8", "1.25").replace("4000", "7").replace("min(32", "min(128")
    assert text == wanted


def test_numbers_stay_in_bounds_and_of_their_type() -> None:
    whole, real = Tunable(0, 6, 1.0, 48.0), Tunable(1, 0.8, 0.1, 6.4)
    assert (whole.at(0.2), whole.at(5.6), whole.at(1e9)) == (1, 6, 48)
    assert (real.at(0.0), real.at(0.123456), real.at(1e9)) == (0.1, 0.123, 6.4)
    assert all(type(whole.at(v)) is int and type(real.at(v)) is float for v in (0.3, 3, 30))


def bowl(numbers: Sequence[Number]) -> float:
    return 2.0 - abs(numbers[0] - 20) / 100 - abs(numbers[1] - 0.3)


@pytest.mark.parametrize("method", ["coordinate", "tpe"])
def test_methods_climb_within_their_budget(method: str) -> None:
    known = [Tunable(0, 6, 1.0, 48.0), Tunable(1, 0.8, 0.1, 6.4)]
    asked: list[tuple[Number, ...]] = []

    def objective(numbers: Sequence[Number]) -> float:
        asked.append(tuple(numbers))
        return bowl(numbers)

    start = bowl([6, 0.8])
    best, score = search_of(method)(objective, known, start, 80, random.Random(1))  # type: ignore[arg-type]
    assert score == bowl(best) and score > start + 0.3 and len(asked) <= 80
    again, same = search_of(method)(bowl, known, start, 80, random.Random(1))  # type: ignore[arg-type]
    assert (again, same) == (best, score)


def test_coordinate_search_ends_when_nothing_is_left_to_try() -> None:
    best, score = coordinate_search(lambda n: float(n[0]), [Tunable(0, 1, 1.0, 2.0)], 1.0, 1000, random.Random(0))
    assert (best, score) == ([2], 2.0)


def test_fits_and_counts(judge: Judge) -> None:
    fitter = ConstantFitter(judge)
    program = parse_program(POLICY)
    found = fitter.fit(program, evaluations=60, seed=3)
    assert found.after > found.before and found.tunables == 3 and found.evaluations <= 60
    assert found.look_ups == found.evaluations * fitter.train_shapes and 1 < found.distinct <= found.evaluations
    evaluation = judge.evaluate(found.source)
    assert evaluation.train is not None and evaluation.train.score == pytest.approx(found.after, rel=1e-12)
    assert fitter.fit(program, evaluations=60, seed=3) == found


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def schedule(shape, gpu):\n    return 1, None, 0\n", "no number"),
        ("def schedule(shape, gpu):\n    return 9 // (shape.batch - 1), None, 0\n", "no score"),
        ("def schedule(shape, gpu):\n    return 200, None, 0\n", "no score"),
    ],
)
def test_says_why_it_cannot_fit(source: str, reason: str, judge: Judge) -> None:
    with pytest.raises(Unfit, match=reason):
        ConstantFitter(judge).fit(parse_program(source), evaluations=10, seed=0)


def test_a_fit_can_be_stopped(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    fitter, stopped = ConstantFitter(judge), threading.Event()
    asked: list[object] = []

    def fits(decisions: object) -> None:
        asked.append(decisions)
        if len(asked) == 3:
            stopped.set()
        return real(decisions)  # type: ignore[no-any-return]

    real = fitter._fits
    monkeypatch.setattr(fitter, "_fits", fits)
    with pytest.raises(Unfit, match="stopped"):
        fitter.fit(parse_program(POLICY), evaluations=1000, seed=3, stopped=stopped)
    assert len(asked) == 3


def test_fits_without_a_compiler_find_the_same(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse_program(POLICY)
    native = ConstantFitter(judge).fit(program, evaluations=12, seed=3)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert ConstantFitter(judge).fit(program, evaluations=12, seed=3) == native


def test_without_optuna_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="needs Optuna") as caught:
        search_of("tpe")
    assert caught.value.exit_code == 3 and "evosplit[fit]" in caught.value.hint


def test_a_search_without_optuna_leaves_no_folder(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = evosplit(
        "run", "configs/quickstart.yaml", *ON_SMALL, "--set", "constants.every=2", "--set", "constants.method=tpe"
    )
    assert result.code == 3 and "needs Optuna" in result.err and not (tmp_path / "runs").exists()


def search(folder: Path, judge: Judge, proposals: int) -> None:
    config = RunConfig(
        proposer=OfflineConfig(),
        search=SearchConfig(proposals=proposals, window=2),
        constants=ConstantsConfig(every=2, evaluations=20),
    )
    proposer = FittingProposer(open_proposer(config.proposer), judge, config.constants, islands=2)
    folder.mkdir(exist_ok=True)
    seeds = [(ROOT / "seeds" / "fa3_stock.py").read_text(encoding="utf-8")]
    Controller(config, judge, proposer, folder, seeds=seeds).run()


@pytest.mark.slow
def test_fitted_variants_are_children_in_the_journal(judge: Judge, tmp_path: Path) -> None:
    search(tmp_path / "whole", judge, 8)
    entries = read_journal(tmp_path / "whole")
    fits = [e for e in entries if e.answer is not None and e.answer.model == MODEL]
    assert fits and all(e.parent is not None for e in fits)
    for entry in fits:
        assert entry.answer is not None and entry.answer.look_ups >= 2 * len(judge.cases) * 3 // 5
        parent = next(e for e in entries if e.id == entry.parent)
        if entry.train is not None and parent.train is not None:
            assert entry.train.score > parent.train.score
    # Interrupted after some proposals and resumed, the journal is the same.
    search(tmp_path / "parts", judge, 4)
    search(tmp_path / "parts", judge, 8)
    contents = []
    for name in ("whole", "parts"):
        with open_journal(tmp_path / name, read_only=True) as journal:
            content = journal.content()
        content["meta"] = [m for m in content["meta"] if m["key"] not in ("config", "proposals")]
        contents.append(content)
    assert contents[0] == contents[1]
