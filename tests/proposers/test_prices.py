"""Prices of launches: their fits, and that a program decides as its price does on the training shapes."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, seed

from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.api.programs import open_judge
from evolve.mutation import prices
from evolve.mutation.curves import Curves
from evolve.mutation.price_fit import Array, Choices, choose_well, chosen, least_squares
from evolve.mutation.price_parts import rows_like
from evolve.mutation.syntax import functions, with_math
from evolve.proposal import ProgramRecord, Request
from evolve.proposers.offline import OfflineProposer

TABLE: Path = ROOT / "results" / "triton-schedule" / "h200-table"


@pytest.fixture(scope="module")
def told() -> Iterator[Judge]:
    yield open_judge(ROOT / "configs" / "triton-live-lengths.yaml", {"judge.table": str(TABLE)})


def random_choices(rng: np.random.Generator, rates: Array) -> Choices:
    """Launches whose latency is a price by the rates, and some that do not exist."""
    parts = rng.uniform(0.5, 5, (40, 12, rates.shape[1]))
    kinds = rng.integers(0, len(rates), (40, 12))
    times = (parts * rates[kinds]).sum(-1)
    gains = np.where(rng.random((40, 12)) < 0.2, np.nan, np.log(20 / times))
    return Choices(parts, kinds, gains, times, np.full(40, 1 / 40))


def gained(choices: Choices, rates: Array) -> float:
    """Mean gain of what a price chooses."""
    return float(choices.gains[np.arange(len(choices.kinds)), chosen(choices, rates)].mean())


def test_fits_find_the_rates_and_choose_what_gains() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
    choices = random_choices(rng, rates)
    best = float(np.nanmax(choices.gains, axis=1).mean())
    assert least_squares(choices, 2, near=9.0) == pytest.approx(rates, abs=1e-6)
    assert gained(choices, rates) == pytest.approx(best)
    wrong = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    moved = choose_well(choices, wrong, 0.03)
    assert gained(choices, wrong) < 0.9 * best
    assert gained(choices, moved) > 0.97 * best and (moved >= 0).all()


@pytest.mark.parametrize(("batch", "longest", "mean"), [(2, 900, 700), (24, 8000, 1500), (64, 12000, 400)])
def test_rows_have_about_the_mean_and_the_longest_that_are_told(batch: int, longest: int, mean: int) -> None:
    rows = rows_like(batch, longest, mean)
    assert len(rows) == batch and rows[0] == longest == max(rows) and min(rows) > 0
    # The rank of the longest weighs less in large batches.
    assert mean <= sum(rows) / batch < mean + longest / batch


def test_a_program_decides_as_its_prices(told: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[Choices, Array]] = []
    fitted = prices._fitted

    def noted(choices: Choices, *rest: object) -> Array:
        rates = fitted(choices, *rest)  # type: ignore[arg-type]
        fits.append((choices, rates))
        return rates

    monkeypatch.setattr(prices, "_fitted", noted)
    source = seed("triton_naive")
    result = told.evaluate(source)
    shares = []
    for decision in (prices.EVEN, prices.UNEVEN, prices.BLOCKS):
        curves, rng = Curves(result.feedback), random.Random(3)
        monkeypatch.setattr(rng, "choice", lambda _, decision=decision: decision)
        changed = prices.add_price(source, curves, rng)
        assert changed is not None
        source = with_math(changed)
        result = told.evaluate(source)
        assert result.status is Status.OK, result.message
        assert result.train is not None
        shares.append(result.train.oracle_share)
        choices, rates = fits[-1]
        priced = prices._priced(curves.table)
        rows = priced.even if decision == prices.EVEN else priced.uneven
        expected = choices.gains[np.arange(len(choices.kinds)), chosen(choices, rates)]
        judged = [math.log(result.speedups[curves.table.rows[i].name]) for i in rows]
        alike = np.isclose(np.where(expected < 0, expected / 2, expected), judged, atol=1e-6)
        assert alike.mean() > 0.97  # rates have three digits, and the last ones decide ties
    assert {prices.EVEN, prices.UNEVEN, prices.BLOCKS} <= functions(source).keys()
    assert shares[-1] > 0.93 and shares[-1] > shares[0]


def test_searches_without_live_lengths_draw_as_before(judges: Mapping[str, Judge]) -> None:
    source = seed("triton_naive")
    parent = ProgramRecord(0, source, judges["triton_decode-metadata-cold"].evaluate(source))
    for number in range(2):
        request = Request(number, 0, parent, (), "", "", False, number)
        with_it, without = (
            asyncio.run(OfflineProposer(without=kinds).propose(request))
            for kinds in (frozenset(), frozenset({"price"}))
        )
        assert with_it.text == without.text and with_it.note == without.note
    assert prices.add_price(source, Curves(parent.evaluation.feedback), random.Random(0)) is None
