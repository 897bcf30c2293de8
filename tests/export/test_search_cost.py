"""Cost of a search in the prepare kernel per step, and refusals because of it."""

from __future__ import annotations

import json
import lzma
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT, TABLES

from evaluators.data.contract import Gpu, Mode
from evaluators.language.cpp.normalise import form_of
from evaluators.language.gate import Program, parse_program
from evolve.export.bundle.search_cost import (
    ALONE_US,
    LANES,
    LAYERS,
    QUEUE_TURNED_AWAY_US,
    ROUND_US,
    TURNED_AWAY_US,
    candidates,
    cost_notes,
    queue_us,
    search_us,
    step_costs,
)
from evolve.export.evidence.evidence import Row, gather, recorded_tables
from evolve.export.evidence.harm import HarmfulRule
from evolve.export.patch.candidates import find_search
from evolve.export.patch.queue_rule import QueueLoop, find_queue, most_blocks
from evolve.export.targets.targets import TARGETS


def judged(path: str, target: str, head: str = "") -> tuple[Program, list[Row]]:
    """A program, with lines put in front of its rule for blocks, and its rows in metadata mode."""
    text = (ROOT / "results" / path).read_text()
    rule = "def blocks_per_split(work, gpu):\n"
    assert rule in text
    program = parse_program(text.replace(rule, rule + head))
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
    assert "Predicted from the kernel's time on an H100" in note and "1152 even batches are searched" in note
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
    reading, alone = (
        find_search(form_of(judged(path, "fa3-whole")[0], "blocks_per_split"))
        for path in ("champions/fa3-metadata.py", "certificates/fa3-metadata-even.py")
    )
    assert reading and reading.reductions and alone and not alone.reductions
    assert search_us(reading, 33, [5] * 40) == 2 * dict(ROUND_US)[64]
    assert search_us(alone, 33, [5] * 40) == 2 * ALONE_US


EVOLVED = {"fa3": ("fa3-metadata-evolved", "fa3-whole"), "vllm": ("vllm-metadata-evolved", "fa3-vllm-prepare")}


def queue_of(program: Program) -> QueueLoop:
    queue = find_queue(form_of(program, "blocks_per_split"))
    assert queue is not None
    return queue


def measured_batches(told: dict[str, Any]) -> list[list[int]]:
    """Batches of measure.py, drawn again: what it draws for the order of its launches lies between them."""
    rng, found = random.Random(3), []
    for line in told["costs"]:
        longest, size = line["blocks"], line["batch"]
        n_blocks = [longest if line["even"] else rng.randint(1, longest) for _ in range(size)]
        n_blocks[0] = longest
        found.append(n_blocks)
        for _ in range(15 + 25):
            rng.sample([0, 1], 2)
    return found


@pytest.mark.parametrize("order", EVOLVED)
def test_costs_of_the_queue_are_those_that_were_measured(order: str) -> None:
    told = json.loads(lzma.decompress((ROOT / "results" / "prepare-kernel" / "queue.json.xz").read_bytes()))[order]
    name, target = EVOLVED[order]
    program, rows = judged(f"champions/{name}.py", target)
    queue = queue_of(program)
    assert queue.plays == 1 and queue.longest_first is (order == "fa3")
    beyond = []
    for line, n_blocks in zip(told["costs"], measured_batches(told), strict=True):
        us = line[f"{name}_us"] - line["stock_us"]
        if max(n_blocks) > most_blocks(queue):
            beyond.append(us)
        else:
            assert queue_us(queue, n_blocks) == pytest.approx(us, rel=0.16)
    assert len(beyond) == len(told["costs"]) / 3
    assert statistics.median(beyond) <= QUEUE_TURNED_AWAY_US < max(beyond) + 0.05
    # What the steps that were timed paid, in all; single ones differ more.
    by_id = {r.case.id: r for r in rows if r.setting.name == told["setting"]}
    paid, predicted = [], []
    for step in told["steps"]:
        row = by_id[step["case"]]
        work = row.work(row.chosen)
        paid.append(step["cost_us"])
        predicted.append(queue_us(queue, work.n_blocks))
    assert 0.75 * sum(paid) < sum(predicted) < 1.05 * sum(paid)


@pytest.mark.parametrize(
    ("order", "refused", "kept"),
    [("fa3", "358 of 360 ragged batches", "even batches"), ("vllm", "1312 of 1312 even batches", "nothing")],
)
def test_evolved_champions_are_refused_for_the_batches_that_pay_more_than_they_gain(
    order: str, refused: str, kept: str
) -> None:
    name, target = EVOLVED[order]
    program, rows = judged(f"champions/{name}.py", target)
    with pytest.raises(HarmfulRule, match=f"{LAYERS} layers more .* on an H200.*{refused} are searched") as found:
        step_costs(form_of(program, "blocks_per_split"), rows, Gpu())
    assert kept not in str(found.value) and "32 candidates" not in str(found.value.hint)
    assert ("min_n_blocks == work" in str(found.value.hint)) is (order == "vllm")


def test_a_queue_that_even_batches_alone_reach_is_paid_for() -> None:
    head = "    if work.min_n_blocks < work.max_n_blocks:\n        return 0\n"
    program, rows = judged("champions/fa3-metadata-evolved.py", "fa3-whole", head)
    form = form_of(program, "blocks_per_split")
    tried = candidates(form, queue_of(program), rows, Gpu())
    works = [r.work(r.chosen) for r in rows]
    ragged = [n for n, w in zip(tried, works, strict=True) if w.min_n_blocks < w.max_n_blocks]
    assert len(ragged) > 600 and not any(ragged) and set(tried) == {0, 18}
    costs = step_costs(form, rows, Gpu())
    assert all(c.log_net > 0 for c in costs)
    (note,) = cost_notes(costs)
    assert "time on an H200" in note and "746 of 1152 even batches are searched" in note


def test_equal_sequences_are_placed_at_once_and_every_call_counts() -> None:
    program, _ = judged("champions/fa3-metadata-evolved.py", "fa3-whole")
    queue = queue_of(program)
    in_order = replace(queue, longest_first=False)
    assert queue_us(queue, [5, 9] * 20) == queue_us(queue, [5] * 20 + [9] * 20)
    assert queue_us(in_order, [5, 9] * 20) > 3 * queue_us(in_order, [5] * 20 + [9] * 20)
    text = (ROOT / "results/champions/fa3-metadata-evolved.py").read_text()
    call = "time = 3.44 + end[0]\n"
    assert call in text
    again = "    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)\n    " + call
    twice = queue_of(parse_program(text.replace("    " + call, again)))
    assert twice.plays == 2 and queue_us(twice, [5] * 8) == 2 * queue_us(queue, [5] * 8)
    tried = search_us(queue, 18, [5] * 8), search_us(queue, 0, [5] * 8)
    assert tried == (queue_us(queue, [5] * 8), QUEUE_TURNED_AWAY_US)
