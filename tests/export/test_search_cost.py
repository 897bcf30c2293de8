"""Cost of a search in the prepare kernel per step, and refusals because of it."""

from __future__ import annotations

import json
import statistics

import pytest
from conftest import ROOT, TABLES

from evaluators.data.contract import Gpu, Mode
from evaluators.language.cpp.normalise import form_of
from evaluators.language.gate import Program, parse_program
from evolve.export.bundle.search_cost import (
    ALONE_US,
    LANES,
    ROUND_US,
    TURNED_AWAY_US,
    candidates,
    cost_notes,
    search_us,
    step_costs,
)
from evolve.export.evidence.evidence import Row, gather, recorded_tables
from evolve.export.evidence.harm import HarmfulRule
from evolve.export.patch.candidates import find_search
from evolve.export.targets.targets import TARGETS

CERTIFICATES = ROOT / "results" / "certificates"


def judged(path: str, target: str) -> tuple[Program, list[Row]]:
    program = parse_program((ROOT / "results" / path).read_text())
    rows = gather(TARGETS[target], program, recorded_tables(TARGETS[target], TABLES), Gpu())
    return program, [r for r in rows if r.setting.mode is Mode.METADATA]


def test_a_search_that_costs_more_than_it_gains_on_ragged_batches_is_refused() -> None:
    program, rows = judged("champions/fa3-metadata.py", "fa3-whole")
    with pytest.raises(HarmfulRule, match="of 360 ragged batches are searched") as found:
        step_costs(form_of(program, "blocks_per_split"), rows, Gpu())
    assert "even batches" not in str(found.value) and "min_n_blocks < work.max_n_blocks" in found.value.hint


def test_what_a_search_on_even_batches_costs_is_told() -> None:
    program, rows = judged("certificates/fa3-metadata-even.py", "fa3-whole")
    form = form_of(program, "blocks_per_split")
    search = find_search(form)
    assert search is not None
    tried = candidates(form, search, rows, Gpu())
    ragged = [n for n, r in zip(tried, rows, strict=True) if r.case.ragged and r.case.shape.seqlen_k > 4096]
    assert ragged and not any(ragged) and max(tried) == 32
    costs = step_costs(form, rows, Gpu())
    assert all(0 < c.log_net <= c.log_gain and c.searched < c.batches for c in costs)
    (note,) = cost_notes(costs)
    assert "Predicted" in note and "1152 even batches are searched" in note
    # Rules without a search have no such cost.
    stock = parse_program((ROOT / "seeds" / "whole_wave_splits.py").read_text())
    assert step_costs(form_of(stock, "blocks_per_split"), rows, Gpu()) == []


def test_costs_are_those_that_were_measured() -> None:
    told = json.loads((ROOT / "results" / "prepare-kernel" / "prepare_kernel.json").read_text())
    # That form tries 33 candidates, two rounds.
    rules = [name for name in told["built"] if name not in ("stock", "fa3-metadata-abstains")]
    one_round = [c for c in told["costs"] if c["blocks"] == LANES]
    for batch, us in ROUND_US:
        lines = [c for c in one_round if c["batch"] == batch]
        assert max(c[f"{r}_us"] - c["stock_us"] for c in lines for r in rules) == pytest.approx(us, abs=0.06)
    even = [c["fa3-metadata-even_us"] - c["stock_us"] for c in told["costs"]]
    assert max(even) == pytest.approx(ALONE_US, abs=0.06)
    assert statistics.median(x for x in even if x < 1) <= TURNED_AWAY_US < min(x for x in even if x > 1)
    assert search_us(33, 40, reads_batch=True) == 2 * dict(ROUND_US)[64]
    assert search_us(33, 40, reads_batch=False) == 2 * ALONE_US
