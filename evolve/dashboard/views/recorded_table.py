"""One table of measured launches, read for display: what each shape offers, what a program's decisions come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence

from evaluators.data.contract import Decision
from evaluators.data.workloads import Case, Weighting, weights
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.judge.judge import SEARCH_SPLITS
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.oracle import log_speedups, standard_error
from evaluators.latencies.table import Cell, Table, restrict
from evaluators.scoring.score import is_regression
from evolve.dashboard.views.documents import Cells, Outcome, ShapeCase
from evolve.dashboard.views.measured import Measured, mean_live

CARD_FIELDS = ("workload", "setting", "build", "recorded", "rounds", "round_spread_median", "round_spread_p95")


class RecordedTable:
    """The cases that a run was judged on, in the order of its decisions. The sealed test shapes are left out.

    Shapes of which not even the baseline is measured yet, as a live run may have them, are left out as well.
    """

    def __init__(self, table: Table, weighting: Weighting, *, live: bool = False) -> None:
        """Take a table; `live` ones hold what was measured so far, and nothing is read out between two launches."""
        table = restrict(table, SEARCH_SPLITS)
        self._table, self._source = table, None if live else TableSource(table)
        self._setting, self._gpu = table.setting, table.gpu
        by_split = {s: weights([c for c in table.cases if c.split is s], weighting) for s in SEARCH_SPLITS}
        self._weights = {i: w for found in by_split.values() for i, w in found.items()}
        judged = [c for c in table.cases if c.id in self._weights]
        self.judged = len(judged)
        """Decisions that a program makes on this table."""
        self._at = [i for i, c in enumerate(judged) if table.cells[c.id]]
        self.cases: tuple[Case, ...] = tuple(judged[i] for i in self._at)
        self._measured = [Measured.of(table.cells[c.id]) for c in self.cases]
        self._numbers: list[dict[str, int]] = [{} for _ in self.cases]
        self.outcomes: list[list[Outcome]] = [[] for _ in self.cases]
        """By case, every outcome that was asked for; `picks` counts in these."""
        self.card = {k: str(table.card[k]) for k in CARD_FIELDS if k in table.card} | {
            "gpu": str(table.card["device"]["name"]),
            "driver": str(table.card["device"].get("driver", "")),
            "measured": "live" if live else "recorded",
            "launches": str(sum(len(table.cells[c.id]) for c in self.cases)),
            "unmeasured": str(self.judged - len(self.cases)),
        }

    def oracle_speedup(self) -> dict[str, float]:
        """What the oracle gains on each split, by name."""
        totals: dict[str, float] = {}
        for case, measured in zip(self.cases, self._measured, strict=True):
            split = case.split.value
            totals[split] = totals.get(split, 0.0) + self._weights[case.id] * measured.oracle_log_gain
        return {split: math.exp(total) for split, total in totals.items()}

    def shape_cases(self, number: int, prefix: str) -> list[ShapeCase]:
        """Every case with its launches, as table `number`, under names with a prefix."""
        return [
            self._shape_case(case, measured, number, prefix)
            for case, measured in zip(self.cases, self._measured, strict=True)
        ]

    def _shape_case(self, case: Case, measured: Measured, number: int, prefix: str) -> ShapeCase:
        shape = case.shape
        return ShapeCase(
            id=prefix + case.id,
            table=number,
            split=case.split.value,
            batch=shape.batch,
            seqlen_k=shape.seqlen_k,
            num_heads_q=shape.num_heads_q,
            num_heads_kv=shape.num_heads_kv,
            head_dim=shape.head_dim,
            mix=case.id.rsplit("-", 1)[-1] if case.ragged else "",
            live_seqlens=list(shape.live_seqlens),
            weight=round(self._weights[case.id], 8),
            oracle_speedup=round(math.exp(measured.oracle_log_gain), 5),
            best=measured.best,
            cells=self._cells(case, measured, self._table.cells[case.id]),
        )

    def _cells(self, case: Case, measured: Measured, cells: Sequence[Cell]) -> Cells:
        # Tables hold decisions spelled out, but for the blocks of those that leave them to FA3.
        spelled = [
            d if (d.num_splits == 1 and not d.blocks_per_split) or (d.num_splits and d.blocks_per_split)
            else spelled_out(case.shape, self._setting, d, self._gpu)
            for d in (c.decision for c in cells)
        ]  # fmt: skip
        return Cells(
            num_splits=[d.num_splits for d in spelled],
            blocks_per_split=[d.blocks_per_split for d in spelled],
            pack_gqa=[d.pack_gqa for d in spelled],
            sm_margin=[d.sm_margin for d in spelled],
            live_splits=[mean_live(c.launch) for c in cells],
            median_us=measured.median_us,
            low_us=[round(v, 3) for v in measured.low_us],
            high_us=[round(v, 3) for v in measured.high_us],
            speedup=measured.speedups(),
            error=[round(v, 6) for v in measured.error],
        )

    def picks(self, rows: Sequence[str]) -> list[int]:
        """Which outcome each of a program's decisions comes to, by case.

        Args:
            rows: a decision per judged case, as the journal writes it, without brackets: `3,null,0,0`.
        """
        found = []
        for i, (at, numbers) in enumerate(zip(self._at, self._numbers, strict=True)):
            row = rows[at]
            number = numbers.get(row)
            if number is None:
                number = numbers[row] = len(self.outcomes[i])
                self.outcomes[i].append(self._outcome(i, Decision.from_row(json.loads(f"[{row}]"))))
            found.append(number)
        return found

    def _outcome(self, i: int, decision: Decision) -> Outcome:
        case, measured = self.cases[i], self._measured[i]
        spelled = spelled_out(case.shape, self._setting, decision, self._gpu)
        launch = canonical_launch(case.shape, self._setting, spelled, self._gpu)
        cells = self._table.cells[case.id]
        cell = measured.cell_of.get(launch.key)
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
            changed=cell != 0,
        )
        if cell is not None:
            gain, error = measured.log_speedup[cell], measured.error[cell]
            outcome["latency_us"] = measured.median_us[cell]
        else:
            try:
                latency = self._source.latency(case, spelled) if self._source else None
            except UnrecordedError:
                latency = None
            if latency is None:
                return outcome
            logs = log_speedups(cells[0].latencies_us, latency.rounds_us)
            gain, error = statistics.median(logs), standard_error(logs)
            outcome["latency_us"], outcome["interpolated"] = round(latency.median_us, 3), True
        outcome["speedup"] = round(math.exp(gain), 5)
        outcome["error"] = round(error, 6)
        outcome["left"] = round(math.exp(max(0.0, measured.log_speedup[measured.best] - gain)), 5)
        outcome["regression"] = is_regression(gain, error)
        return outcome
