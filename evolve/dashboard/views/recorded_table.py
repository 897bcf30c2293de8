"""One table of measured launches for display: launches of each shape, and outcomes of programs' decisions."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence

from evaluators.data.launches import AnyDecision, Cell
from evaluators.data.workloads import Case, Weighting, weights
from evaluators.judge.judge import JUDGE_VERSION, SEARCH_SPLITS, kernels_last
from evaluators.latencies.latency import TableSource
from evaluators.latencies.oracle import ShapeGains
from evaluators.latencies.table import Table, restrict
from evaluators.scoring.outcomes import Outcomes
from evaluators.targets.target import AnyTarget
from evolve.dashboard.views.documents import Cells, LaunchGrid, Outcome, ShapeCase

CARD_FIELDS = ("workload", "setting", "build", "recorded", "rounds", "round_spread_median", "round_spread_p95")


class RecordedTable:
    """Cases of a run's judge, in the order of its decisions, without the sealed test shapes.

    Shapes without a measured baseline, which a live run may have, are left out as well.
    """

    def __init__(self, table: Table, weighting: Weighting, *, live: bool = False, version: int = JUDGE_VERSION) -> None:
        """Index a table; a `live` one has the measurements so far, and is not interpolated.

        `version` is the version of the run's scoring rules.
        """
        table = restrict(table, SEARCH_SPLITS)
        self._setting, self._gpu = table.setting, table.gpu
        by_split = {s: weights([c for c in table.cases if c.split is s], weighting) for s in SEARCH_SPLITS}
        self._weights = {i: w for found in by_split.values() for i, w in found.items()}
        judged = [c for c in table.cases if c.id in self._weights]
        self.judged = len(judged)
        """Number of decisions of a program on this table."""
        self._at = [i for i, c in enumerate(judged) if table.cells[c.id]]
        self.cases: tuple[Case, ...] = tuple(judged[i] for i in self._at)
        source = TableSource(table, interpolate=not live, kernels_last=kernels_last(version))
        # No cap on the workspace: measurements are shown even if the judge refuses the launch.
        self._look_up = Outcomes(self.cases, table.setting, table.gpu, source, cap_bytes=sys.maxsize)
        self._grids: dict[tuple[str, str], LaunchGrid] = {}
        self._numbers: list[dict[str, int]] = [{} for _ in self.cases]
        self.outcomes: list[list[Outcome]] = [[] for _ in self.cases]
        """Known outcomes by case; `picks` are indices into these."""
        self.card = {k: str(table.card[k]) for k in CARD_FIELDS if k in table.card} | {
            "gpu": str(table.card["device"]["name"]),
            "driver": str(table.card["device"].get("driver", "")),
            "measured": "live" if live else "recorded",
            "launches": str(sum(len(table.cells[c.id]) for c in self.cases)),
            "unmeasured": str(self.judged - len(self.cases)),
        }

    def oracle_speedup(self) -> dict[str, float]:
        """Gain of the oracle by name of split."""
        totals: dict[str, float] = {}
        for case in self.cases:
            split, oracle = case.split.value, self._look_up.known(case.id).oracle
            totals[split] = totals.get(split, 0.0) + self._weights[case.id] * oracle.log_gain
        return {split: math.exp(total) for split, total in totals.items()}

    def shape_cases(self, number: int, prefix: str) -> list[ShapeCase]:
        """All cases with their launches, as table `number`, with a prefix to their names."""
        return [self._shape_case(case, number, prefix) for case in self.cases]

    def _shape_case(self, case: Case, number: int, prefix: str) -> ShapeCase:
        shape, known = case.shape, self._look_up.known(case.id)
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
            oracle_speedup=round(math.exp(known.oracle.log_gain), 5),
            best=known.oracle.cell,
            stock_grid=self._grid(case, known.cells[0].decision),
            cells=self._cells(case, known),
        )

    def _cells(self, case: Case, known: ShapeGains) -> Cells:
        cells = known.cells
        # Tables have resolved decisions, except for blocks that are left to FA3.
        spelled = [
            d if (d.num_splits == 1 and not d.blocks_per_split) or (d.num_splits and d.blocks_per_split)
            else self._look_up.spelled(case, d)
            for d in (c.decision for c in cells)
        ]  # fmt: skip
        target = self._look_up.target
        return Cells(
            num_splits=[d.num_splits for d in spelled],
            blocks_per_split=[d.blocks_per_split for d in spelled],
            pack_gqa=[getattr(d, "pack_gqa", None) for d in spelled],
            sm_margin=[target.sm_margin(d) for d in spelled],
            variant=[] if target.variants is None else [variant_text(target, d) for d in spelled],
            live_splits=[self._mean_live(case, c) for c in cells],
            median_us=[round(statistics.median(c.latencies_us), 3) for c in cells],
            low_us=[round(min(c.latencies_us), 3) for c in cells],
            high_us=[round(max(c.latencies_us), 3) for c in cells],
            speedup=[round(g.speedup, 5) for g in known.gains],
            error=[round(g.standard_error, 6) for g in known.gains],
        )

    def _mean_live(self, case: Case, cell: Cell) -> float:
        """Mean live splits of a recorded launch, from its key if possible, which is fast."""
        if ":" in cell.launch:
            return mean_live(cell.launch)
        live = self._look_up.launch(case, cell.decision).live_splits
        return round(sum(live) / len(live), 3)

    def picks(self, rows: Sequence[str]) -> list[int]:
        """Index of the outcome of each decision of a program, by case.

        Args:
            rows: a decision per judged case, in the journal's form without brackets: `3,null,0,0`.
        """
        found = []
        for i, (at, numbers) in enumerate(zip(self._at, self._numbers, strict=True)):
            row = rows[at]
            number = numbers.get(row)
            if number is None:
                number = numbers[row] = len(self.outcomes[i])
                self.outcomes[i].append(self._outcome(i, self._look_up.target.from_row(json.loads(f"[{row}]"))))
            found.append(number)
        return found

    def _grid(self, case: Case, decision: AnyDecision) -> LaunchGrid:
        launch = self._look_up.launch(case, self._look_up.spelled(case, decision))
        known = self._grids.get((case.id, launch.key))
        if known is None:
            grid = self._look_up.target.grid(case.shape, self._setting, launch)
            waves = round(grid.ctas / self._gpu.num_sms, 2)
            known = LaunchGrid(ctas=grid.ctas, waves=waves, longest_blocks=grid.longest_blocks)
            self._grids[case.id, launch.key] = known
        return known

    def _outcome(self, i: int, decision: AnyDecision) -> Outcome:
        known = self._look_up.known(self.cases[i].id)
        found = self._look_up.of(self.cases[i].id, decision)
        result = found.result
        best = known.gains[known.oracle.cell].log_speedup
        target = self._look_up.target
        return Outcome(
            num_splits=found.spelled.num_splits,
            blocks_per_split=found.spelled.blocks_per_split,
            pack_gqa=getattr(found.spelled, "pack_gqa", None),
            sm_margin=target.sm_margin(found.spelled),
            variant=variant_text(target, found.spelled),
            live_splits=round(found.mean_live_splits, 3),
            grid=self._grid(self.cases[i], found.spelled),
            latency_us=round(result.latency.median_us, 3) if result else None,
            speedup=round(result.speedup, 5) if result else None,
            error=round(result.gain.standard_error, 6) if result else None,
            left=round(math.exp(max(0.0, best - result.log_speedup)), 5) if result else None,
            regression=bool(result and result.regression),
            interpolated=bool(result and result.interpolated),
            changed=found.launch != known.cells[0].launch,
        )


def variant_text(target: AnyTarget, decision: AnyDecision) -> str:
    """Knobs of a decision other than its splits, e.g. `64/4/3`; the baseline's kernel if that runs."""
    if target.variants is None:
        return ""
    return "/".join(map(str, target.variant_of(decision))) if decision.num_splits else "FA3"


def mean_live(launch: str) -> float:
    """Mean live splits of a launch from its key, e.g. `m32.p1.g0:3x6,1` (see `evaluators.fa3.launch.Launch.key`)."""
    total = count = 0
    for run in launch.rpartition(":")[2].split(","):
        value, _, times = run.partition("x")
        n = int(times or 1)
        total, count = total + int(value) * n, count + n
    return round(total / count, 3)
