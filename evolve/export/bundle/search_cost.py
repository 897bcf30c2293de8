"""Cost of a search in the prepare kernel per decode step, compared with the gain of its launches.

The search runs once per step, for every batch that reaches it, even if the launch stays the same; the gain comes in
every layer. Both are predicted: the cost from the kernel's time on a GPU, the gain from recorded latencies.
"""

from __future__ import annotations

import ast
import copy
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import Gpu
from evaluators.language.cpp.normalise import Form
from evolve.export.evidence.answers import ask, read
from evolve.export.evidence.evidence import Row
from evolve.export.evidence.harm import HarmfulRule
from evolve.export.patch.candidates import CandidateSearch, find_search
from evolve.export.patch.queue_rule import QueueLoop, find_queue, most_blocks

LAYERS = 32
"""Layers of the step, as in Llama-3.1-8B; in deeper models the cost is a smaller share."""

LANES = 32
ROUND_US = ((1, 1.9), (8, 2.95), (31, 6.15), (64, 6.15), (256, 6.95), (992, 12.3))
"""Largest batch, and microseconds of 32 candidates that read every sequence: the most expensive rule of
results/prepare-kernel/prepare_kernel.json, less the present kernel."""

ALONE_US = 1.55
"""Microseconds of 32 candidates that read no list, for any batch, from the same file."""

TURNED_AWAY_US = 0.35
"""Microseconds of a batch that returns in front of the loop, from the same file: reductions and the condition."""

QUEUE_US = {False: (7.15, 0.0775, 0.963, 0.0), True: (7.55, 0.0087, 1.154, 0.00855)}
"""Microseconds of a search that plays the queue once for each size, by whether the longest sequences come first: of
every search, for a sequence, for a group of equal sequences (placed at once), and for a sequence times a group. Fitted
to the launches in results/prepare-kernel/queue.json.xz, on an H200."""

QUEUE_TURNED_AWAY_US = 0.6
"""Microseconds of a batch that such a kernel leaves to the present formula, from the same file."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """A group of recorded batches in a step of `LAYERS` layers with nothing but attention.

    Attributes:
        where: workload and setting.
        ragged: True for ragged batches.
        searched: number of those that reach the search.
        dearest_us: microseconds of the most expensive search.
        log_gain: mean log speed-up of the layers.
        log_net: mean log speed-up of the step, with the search.
        losing: number of batches whose step becomes slower.
        timed_on: GPU on which the kernel was timed.
    """

    where: str
    ragged: bool
    batches: int
    searched: int
    dearest_us: float
    log_gain: float
    log_net: float
    losing: int
    timed_on: str

    @property
    def words(self) -> str:
        """Sentence for a bundle."""
        kind = "ragged" if self.ragged else "even"
        return (
            f"{self.where}: {self.searched} of {self.batches} {kind} batches are searched, for up to "
            f"{self.dearest_us:.1f} us; a step runs {math.exp(self.log_net):.4f}x as fast with it, its layers "
            f"{math.exp(self.log_gain):.4f}x, and {self.losing} batches lose"
        )


@dataclass(frozen=True, slots=True)
class _PricedBatch:
    workload: str
    log_gain: float
    log_net: float
    cost_us: float
    searched: bool


def candidates(form: Form, search: CandidateSearch | QueueLoop, rows: Sequence[Row], gpu: Gpu) -> list[int]:
    """Candidates that the kernel tries for each row's batch; 0 where it tries none.

    `form` is `blocks_per_split`, with `return 0` where it leaves the launch to FA3.
    """

    class Zero(ast.NodeTransformer):
        def visit_Return(self, node: ast.Return) -> ast.Return:
            return ast.Return(ast.Constant(0))

    count: ast.expr
    most = None
    if isinstance(search, QueueLoop):
        count, most = ast.Constant(len(search.sizes) + 1), most_blocks(search)
    else:
        last, first = (copy.deepcopy(e) for e in (search.last, search.first))
        count = ast.Call(ast.Name("max", ast.Load()), [
            ast.Constant(0), ast.BinOp(ast.BinOp(last, ast.Sub(), first), ast.Add(), ast.Constant(1)),
        ], [])  # fmt: skip
    body = [*(Zero().visit(copy.deepcopy(s)) for s in search.before), ast.Return(count)]
    counting = replace(form, body=[ast.fix_missing_locations(s) for s in body], comments={})
    works = [r.work(r.chosen) for r in rows]
    asked = [(r.view, work, gpu.num_sms) for r, work in zip(rows, works, strict=True)]
    answers = ask(read(counting.source(), "the search"), asked, "recorded batches")
    held = [w.num_splits > 1 and (most is None or w.max_n_blocks <= most) for w in works]
    return [a.blocks_per_split if own else 0 for a, own in zip(answers, held, strict=True)]


def queue_us(queue: QueueLoop, n_blocks: Sequence[int]) -> float:
    """Predicted microseconds that playing the queue adds to the prepare kernel on an H200; blocks of each sequence."""
    alike = set(n_blocks) if queue.longest_first else [n for n, _ in itertools.groupby(n_blocks)]
    own, sequence, group, both = QUEUE_US[queue.longest_first]
    batch, groups = len(n_blocks), len(alike)
    return queue.plays * (own + sequence * batch + group * groups + both * batch * groups)


def search_us(search: CandidateSearch | QueueLoop, tried: int, n_blocks: Sequence[int]) -> float:
    """Predicted microseconds that a search of `tried` candidates adds to the prepare kernel, on an H100 or H200.

    Args:
        search: loop over candidates.
        tried: candidates, 0 where the loop is not reached.
        n_blocks: blocks of keys of each sequence.
    """
    if isinstance(search, QueueLoop):
        return queue_us(search, n_blocks) if tried else QUEUE_TURNED_AWAY_US
    if not tried:
        return TURNED_AWAY_US
    batch = len(n_blocks)
    own = next((us for most, us in ROUND_US if batch <= most), ROUND_US[-1][1]) if search.reductions else ALONE_US
    return -(-tried // LANES) * own


def step_costs(form: Form, rows: Sequence[Row], gpu: Gpu) -> list[StepCost]:
    """Cost and gain by workload, setting and kind of batch; empty for a rule without a search, or without recordings.

    Raises:
        HarmfulRule: the search costs more than it gains over all recorded even, or all ragged, batches of a setting.
    """
    search = find_queue(form) or find_search(form)
    rows = [r for r in rows if r.result and r.rounds_us]
    if search is None or not rows:
        return []
    tried = candidates(form, search, rows, gpu)
    by_group: dict[tuple[str, bool], list[_PricedBatch]] = {}
    for row, count in zip(rows, tried, strict=True):
        assert row.result and row.rounds_us
        gain = row.result.log_speedup if row.changed else 0.0
        # The kernel runs no rule where the cap is 1.
        work = row.work(row.chosen)
        cost = search_us(search, count, work.n_blocks) if work.num_splits > 1 else 0.0
        stock = LAYERS * statistics.median(row.rounds_us[0])
        net = -math.log(math.exp(-gain) + cost / stock)
        by_group.setdefault((row.setting.name, row.case.ragged), []).append(
            _PricedBatch(row.workload, gain, net, cost, count > 0)
        )
    timed_on = "H200" if isinstance(search, QueueLoop) else "H100"
    found: list[StepCost] = []
    harmful = []
    for (setting, ragged), group in by_group.items():
        whole = _of_group(setting, ragged, group, timed_on)
        if whole.log_net < 0 < whole.dearest_us and whole.searched:
            harmful.append(whole)
        for workload in dict.fromkeys(b.workload for b in group):
            own = [b for b in group if b.workload == workload]
            found.append(_of_group(f"{workload}, {setting}", ragged, own, timed_on))
    if harmful:
        kinds = {
            f"`if work.min_n_blocks {'<' if c.ragged else '=='} work.max_n_blocks: return 0` leaves "
            f"{'ragged' if c.ragged else 'even'} ones to FA3" for c in harmful
        }  # fmt: skip
        raise HarmfulRule(
            f"the search over candidates costs a step of {LAYERS} layers more than its launches gain (predicted from "
            f"the kernel's time on an {timed_on}): {'; '.join(c.words for c in harmful)}",
            hint=f"turn such batches away in front of the loop ({'; '.join(sorted(kinds))})"
            f"{'' if isinstance(search, QueueLoop) else ', or try 32 candidates'}",
        )
    return found


def cost_notes(costs: Sequence[StepCost]) -> tuple[str, ...]:
    """Lines for a bundle."""
    told = [c.words for c in costs if c.searched]
    if not told:
        return ()
    return (
        "the search is paid once per step, also where it changes nothing. Predicted from the kernel's time on an "
        f"{costs[0].timed_on} and recorded latencies, for {LAYERS} layers of attention alone: {'; '.join(told)}",
    )


def _of_group(where: str, ragged: bool, group: Sequence[_PricedBatch], timed_on: str) -> StepCost:
    return StepCost(
        where, ragged, len(group), sum(b.searched for b in group), max(b.cost_us for b in group),
        statistics.fmean(b.log_gain for b in group), statistics.fmean(b.log_net for b in group),
        sum(b.log_net < 0 for b in group), timed_on,
    )  # fmt: skip
