"""A run's recorded table, read for display: what each shape offers, and what a program's decisions come to on it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluators.contract import Decision
from evaluators.judge import SEARCH_SPLITS
from evaluators.latency import TableSource, UnrecordedError
from evaluators.launch import canonical_launch, spelled_out
from evaluators.oracle import OracleShape, log_speedups, oracle_of, standard_error
from evaluators.score import is_regression
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
        self._medians: dict[str, Measured] = {}
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
        measured = self._measured(case)
        spelled = [spelled_out(case.shape, self._setting, c.decision, self._gpu) for c in cells]
        return Cells(
            num_splits=[d.num_splits for d in spelled],
            blocks_per_split=[d.blocks_per_split for d in spelled],
            pack_gqa=[d.pack_gqa for d in spelled],
            sm_margin=[d.sm_margin for d in spelled],
            live_splits=[_mean_live(c.launch) for c in cells],
            median_us=measured.median_us,
            low_us=[min(c.latencies_us) for c in cells],
            high_us=[max(c.latencies_us) for c in cells],
            speedup=[round(math.exp(v), 5) for v in measured.log_speedup],
            error=[round(v, 6) for v in measured.error],
        )

    def _measured(self, case: Case) -> Measured:
        if case.id not in self._medians:
            self._medians[case.id] = Measured.of(self._table.cells[case.id])
        return self._medians[case.id]

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

    def _outcome(self, case: Case, decision: Decision) -> Outcome:
        spelled = spelled_out(case.shape, self._setting, decision, self._gpu)
        launch = canonical_launch(case.shape, self._setting, spelled, self._gpu)
        measured = self._measured(case)
        outcome = Outcome(
            num_splits=spelled.num_splits,
            blocks_per_split=spelled.blocks_per_split,
            pack_gqa=spelled.pack_gqa,
            sm_margin=spelled.sm_margin,
            live_splits=round(sum(launch.live_splits) / len(launch.live_splits), 3),
            latency_us=None,
            speedup=None,
            error=None,
            left=None,
            regression=False,
            interpolated=False,
            changed=launch.key != self._table.cells[case.id][0].launch,
        )
        cell = measured.cell_of.get(launch.key)
        if cell is not None:
            gain, error = measured.log_speedup[cell], measured.error[cell]
            outcome["latency_us"] = measured.median_us[cell]
        else:
            try:
                latency = self._source.latency(case, spelled)
            except UnrecordedError:
                return outcome
            logs = log_speedups(self._table.cells[case.id][0].latencies_us, latency.rounds_us)
            gain, error = statistics.median(logs), standard_error(logs)
            outcome["latency_us"], outcome["interpolated"] = round(latency.median_us, 3), True
        best = measured.log_speedup[self._oracle[case.id].cell]
        outcome["speedup"] = round(math.exp(gain), 5)
        outcome["error"] = round(error, 6)
        outcome["left"] = round(math.exp(max(0.0, best - gain)), 5)
        outcome["regression"] = is_regression(gain, error)
        return outcome


@dataclass(frozen=True, slots=True)
class Measured:
    """A shape's cells against its baseline: medians over rounds, and what stands where."""

    median_us: list[float]
    log_speedup: list[float]
    error: list[float]
    cell_of: dict[str, int]
    """Index by key of the canonical launch."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Measured:
        """All cells at once; the same figures as `evaluators.oracle` computes one by one."""
        rounds = np.array([c.latencies_us for c in cells])
        logs = np.log(rounds[0] / rounds)
        errors = logs.std(axis=1, ddof=1) / math.sqrt(rounds.shape[1])
        return cls(
            median_us=[round(v, 3) for v in np.median(rounds, axis=1).tolist()],
            log_speedup=np.median(logs, axis=1).tolist(),
            error=errors.tolist(),
            cell_of={c.launch: i for i, c in enumerate(cells)},
        )


def _mean_live(launch: str) -> float:
    """Mean live splits of a launch from its key, e.g. `m32.p1.g0:3x6,1` (see `evaluators.launch.Launch.key`)."""
    total = count = 0
    for run in launch.rpartition(":")[2].split(","):
        value, _, times = run.partition("x")
        n = int(times or 1)
        total, count = total + int(value) * n, count + n
    return round(total / count, 3)
