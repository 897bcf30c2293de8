"""Summary of a sweep, from the journals of its runs: a line per run, medians per variant, the winners."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluators.data.evaluation import SplitScore
from evolve.errors import UserError
from evolve.journal.journal import Spending, open_journal
from evolve.journal.run_folder import BEST_FILE, write_whole
from evolve.sweep.conductor import RunState, State
from evolve.sweep.folder import Sweep

CSV_FILE, JSON_FILE = "summary.csv", "summary.json"

NOT_THE_JUDGES = (
    "schema_version", "created_at", "run", "proposer", "proposals", "templates", "config", "feedback_version",
    "ended", "checksums", "predicted_tokens", "winner_off_grid", "winner_batch_invariant",
)  # fmt: skip
"""Keys of a journal's meta table that do not describe the judge."""

_LOOK_UPS = """SELECT (SELECT count(DISTINCT decisions_hash) FROM results WHERE status = 'ok' AND train IS NOT NULL),
    (SELECT total(look_ups) FROM answers)"""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run.

    Attributes:
        judged_on: description of its judge: workload, setting, table or GPU. Only scores of runs with equal
            descriptions can be compared.
        winner: proposal that the holdout picked; None without a score.
        look_ups: latencies looked up: training shapes times distinct scored decision tables, and the proposer's own.
    """

    label: str
    variant: str
    random_seed: int
    state: State
    trouble: str
    path: Path
    proposals: int
    wanted: int
    judged_on: Mapping[str, str]
    winner: int | None
    train: SplitScore | None
    holdout: SplitScore | None
    spending: Spending
    look_ups: int

    @property
    def score(self) -> float:
        """Score that picks the winner of several runs: that on the holdout, otherwise on the training shapes."""
        score = self.holdout or self.train
        assert score is not None
        return score.score


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, quartiles and extremes over the runs of a variant."""

    median: float
    low: float
    high: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Variant:
    """The runs of one variant that have a winner and equal judges.

    Attributes:
        unfinished: number of those that have not made all their proposals.
        figures: spread by name: shares of the oracle's gain, regressions on both splits, spending.
    """

    variant: str
    judged_on: Mapping[str, str]
    runs: int
    unfinished: int
    figures: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """Summary of all runs.

    Attributes:
        runs: all runs, in the order of the sweep.
        variants: all variants, in the order of the sweep.
        winners: the run whose winner is best on the holdout, for each judge.
    """

    path: Path
    runs: tuple[RunLine, ...]
    variants: tuple[Variant, ...]
    winners: tuple[RunLine, ...]


def summarise(sweep: Sweep, states: Sequence[RunState]) -> SweepSummary:
    """Read the journals once more and summarise them."""
    runs = tuple(_line(sweep, state) for state in states)
    scored = [r for r in runs if r.train is not None]
    variants = []
    for variant, judged_on in _distinct([(r.variant, r.judged_on) for r in scored]):
        mine = [r for r in scored if r.variant == variant and r.judged_on == judged_on]
        figures = _spreads([_figures(r) for r in mine])
        unfinished = sum(r.proposals < r.wanted for r in mine)
        variants.append(Variant(variant, judged_on, len(mine), unfinished, figures))
    winners = []
    for (judged_on,) in _distinct([(r.judged_on,) for r in scored]):
        winners.append(max((r for r in scored if r.judged_on == judged_on), key=lambda r: r.score))
    return SweepSummary(sweep.path, runs, tuple(variants), tuple(winners))


def _distinct(found: list[Any]) -> list[Any]:
    return [x for i, x in enumerate(found) if x not in found[:i]]


def _line(sweep: Sweep, state: RunState) -> RunLine:
    member, s = state.member, state.standing
    meta: dict[str, str] = {}
    look_ups = 0
    try:
        with open_journal(sweep.folder(member), read_only=True) as journal:
            rows = journal.select("SELECT key, value FROM meta ORDER BY key")
            meta = {r["key"]: r["value"] for r in rows if r["key"] not in NOT_THE_JUDGES}
            tables, own = journal.select(_LOOK_UPS)[0]
            look_ups = int(own) + tables * (s.winner.train.shapes if s.winner else 0)
    except UserError:
        pass  # not begun, or killed at its start: a line without figures
    return RunLine(
        label=member.label,
        variant=member.variant,
        random_seed=member.config.random_seed,
        state=state.state,
        trouble=state.trouble,
        path=sweep.folder(member),
        proposals=s.done,
        wanted=state.wanted,
        judged_on=meta,
        winner=s.winner.id if s.winner else None,
        train=s.winner.train if s.winner else None,
        holdout=s.winner.holdout if s.winner else None,
        spending=s.spending,
        look_ups=look_ups,
    )


def _figures(run: RunLine) -> dict[str, float]:
    assert run.train is not None
    splits = [s for s in (run.train, run.holdout) if s]
    held = {"holdout_share": run.holdout.oracle_share} if run.holdout else {}
    return {
        "train_share": run.train.oracle_share,
        **held,
        "regressions": sum(s.regressions for s in splits),
        "proposals": run.proposals,
        "look_ups": run.look_ups,
        "tokens": run.spending.tokens,
        "cost_usd": run.spending.cost_usd,
        "gpu_s": run.spending.gpu_s,
    }


def _spreads(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Spread of each figure over some runs."""
    import pandas

    found = pandas.DataFrame(figures).quantile([0.5, 0.25, 0.75, 0, 1])
    return {str(name): Spread(*column) for name, column in found.items()}


def summary_json(summary: SweepSummary, code: int) -> dict[str, Any]:
    """The summary as JSON; `docs/schema/sweep.json` describes it."""

    def score(found: SplitScore | None) -> dict[str, Any] | None:
        return None if found is None else asdict(found)

    def run(r: RunLine) -> dict[str, Any]:
        won = {"id": r.winner, "path": str(r.path / BEST_FILE), "train": score(r.train), "holdout": score(r.holdout)}
        spent = {"calls": r.spending.calls, "tokens": r.spending.tokens, "cost_usd": r.spending.cost_usd,
                 "gpu_s": r.spending.gpu_s, "look_ups": r.look_ups}  # fmt: skip
        return {
            "label": r.label,
            "path": str(r.path),
            "variant": r.variant,
            "random_seed": r.random_seed,
            "state": r.state.value,
            "trouble": r.trouble,
            "proposals": r.proposals,
            "wanted": r.wanted,
            "judged_on": dict(r.judged_on),
            "winner": None if r.winner is None else won,
            "spent": spent,
        }

    return {
        "sweep": summary.path.name,
        "path": str(summary.path),
        "exit_code": code,
        "runs": [run(r) for r in summary.runs],
        "variants": [
            {"variant": v.variant, "judged_on": dict(v.judged_on), "runs": v.runs, "unfinished": v.unfinished,
             "figures": {name: asdict(spread) for name, spread in v.figures.items()}}
            for v in summary.variants
        ],
        "winners": [{"label": r.label, "judged_on": dict(r.judged_on)} for r in summary.winners],
    }  # fmt: skip


COLUMNS = (
    "label", "variant", "random_seed", "state", "proposals", "wanted", "winner", "train_score", "train_share",
    "train_regressions", "holdout_score", "holdout_share", "holdout_regressions", "look_ups", "calls", "tokens",
    "cost_usd", "gpu_s", "path",
)  # fmt: skip


def summary_csv(summary: SweepSummary) -> str:
    """CSV with one line per run; missing values are empty."""
    import pandas

    rows = []
    for r in summary.runs:
        row: dict[str, object] = {
            "label": r.label, "variant": r.variant, "random_seed": r.random_seed, "state": r.state.value,
            "proposals": r.proposals, "wanted": r.wanted, "winner": "" if r.winner is None else r.winner,
            "look_ups": r.look_ups, "calls": r.spending.calls, "tokens": r.spending.tokens,
            "cost_usd": r.spending.cost_usd, "gpu_s": r.spending.gpu_s, "path": str(r.path),
        }  # fmt: skip
        for name, score in (("train", r.train), ("holdout", r.holdout)):
            if score is not None:
                row |= {f"{name}_score": score.score, f"{name}_share": score.oracle_share,
                        f"{name}_regressions": score.regressions}  # fmt: skip
        rows.append(row)
    # Objects: a column keeps whole numbers whole where a run has none.
    return str(pandas.DataFrame(rows, columns=list(COLUMNS), dtype=object).to_csv(index=False, lineterminator="\n"))


def write_summary(summary: SweepSummary, code: int) -> list[Path]:
    """Write both files beside the runs; a resumed sweep rewrites them from its journals."""
    files = {CSV_FILE: summary_csv(summary), JSON_FILE: json.dumps(summary_json(summary, code), indent=1) + "\n"}
    for name, text in files.items():
        write_whole(summary.path / name, text)
    return [summary.path / name for name in files]
