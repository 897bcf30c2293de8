"""The overview of a run: best so far and share of the oracle, outcomes by kind, budget; of several, a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from evolve.dashboard.views.documents import CurvePoint, ListedRun, Node, Overview, Runs, SearchLimits
from evolve.dashboard.views.expedition import expeditions_ended
from evolve.dashboard.views.reader import RunReader, leader_of, scored, winner_of
from evolve.dashboard.views.recording import Recording

SHOWN_META = (
    "workload", "traffic", "setting", "weighting", "objective", "predicted_tokens", "winner_off_grid",
    "winner_batch_invariant", "measure", "gpu", "build", "table_sha256", "workspace_cap_mb", "proposer",
)  # fmt: skip


def overview(reader: RunReader, recording: Recording | None) -> Overview:
    """Document of a run's overview; `recording` adds the oracle's gain."""
    nodes = reader.nodes
    proposals = [n for n in nodes if n["kind"] != "seed"]
    done = [n for n in proposals if n["committed_at_s"] is not None]
    wanted = int(reader.meta.get("proposals") or 0)
    config = reader.config
    budget = config.budget if config else None
    winner, leader = winner_of(nodes), leader_of(nodes)
    return Overview(
        view="overview",
        run=reader.name,
        state=reader.state,
        ended=reader.meta.get("ended", ""),
        created_at=reader.created_at,
        last_event_s=reader.last_event_s,
        meta={key: reader.meta[key] for key in SHOWN_META if reader.meta.get(key)},
        config=reader.meta.get("config", ""),
        settings=settings_of(reader.meta.get("config", "")),
        proposals=len(done),
        under_way=len(proposals) - len(done),
        wanted=wanted,
        wall_s=config.search.wall_s if config else None,
        seconds=max((n["committed_at_s"] or 0.0 for n in nodes), default=0.0),
        cost_usd=sum(n["cost_usd"] for n in proposals),
        tokens_in=sum(n["tokens_in"] for n in proposals),
        tokens_out=sum(n["tokens_out"] for n in proposals),
        gpu_s=reader.gpu_s,
        limits=SearchLimits(usd=budget.usd, tokens=budget.tokens, gpu_s=budget.gpu_s)
        if budget
        else SearchLimits(usd=None, tokens=None, gpu_s=None),
        models=dict(Counter(n["model"] for n in proposals if n["model"])),
        statuses=dict(Counter(n["status"] for n in done)),
        expeditions=expeditions_ended(reader.turns()),
        oracle_speedup=recording.oracle_speedup if recording else {},
        winner=winner["id"] if winner else None,
        leader=leader["id"] if leader else None,
        curve=curve(nodes),
    )


def curve(nodes: list[Node]) -> list[CurvePoint]:
    """Commits that improved a best score, and the last one, in order."""
    points: list[CurvePoint] = []
    cost, evaluations = 0.0, 0
    best: Node | None = None
    held: Node | None = None
    fit = {n["id"] for n in scored(nodes)}
    for node in nodes:
        cost += node["cost_usd"]
        if node["committed_at_s"] is None:
            continue
        evaluations += node["kind"] != "seed"
        changed = False
        train, holdout = node["train"], node["holdout"]
        if node["id"] in fit and train is not None:
            if best is None or best["train"] is None or train["score"] > best["train"]["score"]:
                best, changed = node, True
            winner = winner_of([node] if held is None else [held, node]) if holdout else held
            if winner is not held:
                held, changed = winner, True
        if best is not None and (changed or node is nodes[-1]):
            points.append(_point(node, best, held, evaluations, cost))
    return points


def _point(node: Node, best: Node, held: Node | None, evaluations: int, cost: float) -> CurvePoint:
    train, its = best["train"], best["holdout"]
    holdout = held["holdout"] if held else None
    assert train is not None
    return CurvePoint(
        id=node["id"],
        evaluations=evaluations,
        seconds=node["committed_at_s"] or 0.0,
        cost_usd=cost,
        train_score=train["score"],
        train_share=train["oracle_share"],
        its_holdout_score=its["score"] if its else None,
        its_holdout_share=its["oracle_share"] if its else None,
        holdout_score=holdout["score"] if holdout else None,
        holdout_share=holdout["oracle_share"] if holdout else None,
    )


def settings_of(config: str) -> dict[str, str]:
    """Leaves of a configuration given as YAML, by dotted key; lists joined by commas. Empty if it is not a mapping."""
    try:
        value = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return dict(_leaves(value, "")) if isinstance(value, dict) else {}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        yield key, ", ".join(map(_text, value)) or "[]"
    else:
        yield key, _text(value)


def _text(value: Any) -> str:
    return yaml.safe_dump(value, width=1_000_000).removesuffix("\n").removesuffix("\n...")


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
