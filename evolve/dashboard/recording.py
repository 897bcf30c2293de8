"""A run's recorded table, read for display: what each shape offers, and what a program's decisions come to on it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from evaluators.contract import Decision, baseline_decision
from evaluators.judge import SEARCH_SPLITS
from evaluators.latency import Latency, TableSource, UnrecordedError
from evaluators.launch import canonical_launch, spelled_decision
from evaluators.oracle import OracleShape, log_speedups, oracle_of, standard_error
from evaluators.score import shape_result
from evaluators.table import Cell, read_table, restrict
from evaluators.workloads import Case, Split, Weighting, weights
from evolve.dashboard.documents import Cells, Outcome, ShapeCase

CARD_FIELDS = ("workload", "setting", "build", "recorded", "rounds", "round_spread_median", "round_spread_p95")


class Recording:
    """The cases that a run was judged on, in the order of its decisions. The sealed test shapes are left out."""

    def __init__(self, folder: Path, weighting: Weighting) -> None:
        """Read a table.

        Raises:
            TableError: it cannot be read.
        """
        table = restrict(read_table(folder), SEARCH_SPLITS)
        self._table, self._source = table, TableSource(table)
        self._setting, self._gpu = table.setting, table.gpu
        by_split = {s: weights([c for c in table.cases if c.split is s], weighting) for s in SEARCH_SPLITS}
        self._weights = {i: (split, w) for split, found in by_split.items() for i, w in found.items()}
        self.cases: tuple[Case, ...] = tuple(c for c in table.cases if c.id in self._weights)
        self._oracle: dict[str, OracleShape] = {c.id: oracle_of(table.cells[c.id]) for c in self.cases}
        self._stock: dict[str, tuple[Latency, str]] = {}
        self._known: list[dict[tuple[object, ...], Outcome]] = [{} for _ in self.cases]
        self.card = {k: str(table.card[k]) for k in CARD_FIELDS if k in table.card} | {
            "gpu": str(table.card["device"]["name"]),
            "driver": str(table.card["device"].get("driver", "")),
        }

    @cached_property
    def oracle_speedup(self) -> dict[str, float]:
        """What the oracle gains on each split, by name."""
        totals: dict[Split, float] = {}
        for name, (split, weight) in self._weights.items():
            totals[split] = totals.get(split, 0.0) + weight * self._oracle[name].log_gain
        return {split.value: math.exp(total) for split, total in totals.items()}

    @cached_property
    def shape_cases(self) -> list[ShapeCase]:
        """Every case with its recorded launches."""
        return [self._shape_case(case) for case in self.cases]

    def _shape_case(self, case: Case) -> ShapeCase:
        shape, oracle = case.shape, self._oracle[case.id]
        return ShapeCase(
            id=case.id,
            split=case.split.value,
            batch=shape.batch,
            seqlen_k=shape.seqlen_k,
            num_heads_q=shape.num_heads_q,
            num_heads_kv=shape.num_heads_kv,
            head_dim=shape.head_dim,
            mix=case.id.rsplit("-", 1)[-1] if case.ragged else "",
            live_seqlens=list(shape.live_seqlens),
            weight=round(self._weights[case.id][1], 8),
            oracle_speedup=round(math.exp(oracle.log_gain), 5),
            best=oracle.cell,
            cells=self._cells(case, self._table.cells[case.id]),
        )

    def _cells(self, case: Case, cells: Sequence[Cell]) -> Cells:
        stock = cells[0].latencies_us
        logs = [log_speedups(stock, c.latencies_us) for c in cells]
        spelled = [spelled_decision(case.shape, self._setting, c.decision, self._gpu) for c in cells]
        return Cells(
            num_splits=[d.num_splits for d in spelled],
            blocks_per_split=[d.blocks_per_split for d in spelled],
            pack_gqa=[d.pack_gqa for d in spelled],
            sm_margin=[d.sm_margin for d in spelled],
            live_splits=[_mean_live(c.launch) for c in cells],
            median_us=[round(statistics.median(c.latencies_us), 3) for c in cells],
            low_us=[min(c.latencies_us) for c in cells],
            high_us=[max(c.latencies_us) for c in cells],
            speedup=[round(math.exp(statistics.median(row)), 5) for row in logs],
            error=[round(standard_error(row), 6) for row in logs],
        )

    def outcomes(self, decisions: str) -> list[Outcome]:
        """Outcomes of a program's decisions, given as the journal's JSON; shared objects where decisions repeat."""
        rows = json.loads(decisions or "[]")
        if len(rows) != len(self.cases):
            return []
        found = []
        for i, row in enumerate(rows):
            key = tuple(row)
            outcome = self._known[i].get(key)
            if outcome is None:
                outcome = self._known[i][key] = self._outcome(self.cases[i], Decision(*row))
            found.append(outcome)
        return found

    def _baseline(self, case: Case) -> tuple[Latency, str]:
        if case.id not in self._stock:
            first = self._table.cells[case.id][0]
            spelled = spelled_decision(case.shape, self._setting, baseline_decision(self._setting), self._gpu)
            self._stock[case.id] = (self._source.latency(case, spelled), first.launch)
        return self._stock[case.id]

    def _outcome(self, case: Case, decision: Decision) -> Outcome:
        spelled = spelled_decision(case.shape, self._setting, decision, self._gpu)
        launch = canonical_launch(case.shape, self._setting, spelled, self._gpu)
        stock, stock_launch = self._baseline(case)
        base = Outcome(
            num_splits=spelled.num_splits,
            blocks_per_split=spelled.blocks_per_split,
            pack_gqa=spelled.pack_gqa,
            sm_margin=spelled.sm_margin,
            live_splits=round(sum(launch.live_splits) / len(launch.live_splits), 3),
            latency_us=None,
            speedup=None,
            left=None,
            regression=False,
            interpolated=False,
            changed=launch.key != stock_launch,
        )
        try:
            latency = self._source.latency(case, spelled)
        except UnrecordedError:
            return base
        result = shape_result(stock, latency, workspace_bytes=0)
        cells = self._table.cells[case.id]
        best = statistics.median(log_speedups(cells[0].latencies_us, cells[self._oracle[case.id].cell].latencies_us))
        base["latency_us"] = round(latency.median_us, 3)
        base["speedup"] = round(result.speedup, 5)
        base["left"] = round(math.exp(max(0.0, best - result.log_speedup)), 5)
        base["regression"], base["interpolated"] = result.regression, latency.interpolated
        return base


def _mean_live(launch: str) -> float:
    """Mean live splits of a launch from its key, e.g. `m32.p1.g0:3x6,1` (see `evaluators.launch.Launch.key`)."""
    total = count = 0
    for run in launch.rpartition(":")[2].split(","):
        value, _, times = run.partition("x")
        n = int(times or 1)
        total, count = total + int(value) * n, count + n
    return round(total / count, 3)
