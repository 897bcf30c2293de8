"""Several runs: state, winner, cost, and curves."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.dashboard.views.documents import ListedRun, Runs
from evolve.dashboard.views.overview import curve
from evolve.dashboard.views.reader import RunReader, winner_of


def runs(readers: Sequence[RunReader]) -> Runs:
    """Document of several runs, the latest first."""
    latest_first = sorted(readers, key=lambda r: (-r.created_at, r.name))
    return Runs(view="runs", runs=[run_line(reader) for reader in latest_first])


def run_line(reader: RunReader) -> ListedRun:
    """Summary of one run."""
    winner = winner_of(reader.nodes)
    proposals = [n for n in reader.nodes if n["kind"] != "seed"]
    return ListedRun(
        run=reader.name,
        state=reader.state,
        ended=reader.meta.get("ended", ""),
        created_at=reader.created_at,
        seconds=reader.last_event_s,
        proposer=reader.meta.get("proposer", ""),
        workload=reader.meta.get("workload", ""),
        setting=reader.meta.get("setting", ""),
        proposals=sum(n["committed_at_s"] is not None for n in proposals),
        wanted=int(reader.meta.get("proposals") or 0),
        winner=winner["id"] if winner else None,
        train=winner["train"] if winner else None,
        holdout=winner["holdout"] if winner else None,
        cost_usd=sum(n["cost_usd"] for n in proposals),
        tokens=sum(n["tokens_in"] + n["tokens_out"] for n in proposals),
        curve=curve(reader.nodes),
    )
