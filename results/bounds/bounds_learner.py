"""Fields and language: what a strong learner keeps that knows only what the contract tells.

A learner predicts each recorded launch's log speed-up over the baseline; the launch with the highest prediction is
its choice. It reads the contract's fields and what follows from them by arithmetic: how many CTAs run, how long they
are, when the last one ends, how much memory they read. A program of the language could compute all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bounds_noise import ShapeLogs
from numpy.typing import NDArray

from evaluators.data.contract import Decision, Gpu, Mode, Setting
from evaluators.data.launches import Cell
from evaluators.data.workloads import BATCHES, LLAMA_HEADS, MIXES, SEQLENS, Case
from evaluators.fa3.dispatch import ceil_div, shape_view, work_view
from evaluators.fa3.launch import Launch, canonical_launch
from evaluators.latencies.table import Table

Matrix = NDArray[np.float64]

CAPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Caps that a program's `schedule` may choose among; recorded were these and FA3's own."""

WORST = 0.3
"""Launches slower than this (log) are counted as that slow: nobody would choose them, and they would rule the fit."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One shape's launches as a learner sees them.

    Attributes:
        logs: the shape's measurements.
        group: neighbourhood of shapes; kept whole when training shapes are drawn.
        features: (launches, features); `schedule_features` holds what `schedule` sees, one row.
        gains: median log speed-up of each launch.
        caps: for each cap, the launches that some blocks_per_split makes under it.
    """

    logs: ShapeLogs
    group: tuple[int, int, int]
    features: Matrix
    schedule_features: Matrix
    gains: Matrix
    caps: dict[int, list[int]]


def neighbourhood(case: Case) -> tuple[int, int, int]:
    """Batch band, length band or mix, and head count, as the split into train and holdout has them."""
    batch = BATCHES.index(case.shape.batch) // 2
    heads = [kv for _, kv in LLAMA_HEADS].index(case.shape.num_heads_kv)
    if case.ragged:
        return batch, 100 + [m.name for m in MIXES].index(case.id.rsplit("-", 1)[1]), heads
    return batch, SEQLENS.index(case.shape.seqlen_k) // 3, heads


def launch_features(case: Case, setting: Setting, gpu: Gpu, launch: Launch) -> list[float]:
    """What follows from the contract's fields for one launch; lengths and times are in KV blocks."""
    lengths = np.array(work_view(case.shape, setting, 1).n_blocks)
    live = np.resize(np.array(launch.live_splits), len(lengths))
    heads = case.shape.num_heads_kv if launch.pack_gqa else case.shape.num_heads_q
    each = -(-lengths // live)
    order = np.argsort(-each, kind="stable")
    ctas = np.cumsum(live[order]) * heads
    total, count = float(lengths.sum() * heads), float(live.sum() * heads)
    # The last CTA's end, longest first: all that last at least as long fill whole waves. See mutation/cost_features.py.
    span = max(float((-(-ctas // gpu.num_sms) * (each[order] + 1)).max()), (total + count) / gpu.num_sms)
    read = (total + 0.5 * count) / gpu.num_sms
    split = float(launch.combine_bucket > 0)
    # A rough time of the call, from a first look at the training shapes: a learner mends what it lacks.
    combine = split * (0.8 + 0.035 * live.max() + 1e-4 * live.sum() * heads)
    time = (span**4 + (2.15 * read) ** 4) ** 0.25 + 3.5 + combine
    return [
        float(np.log(time)), span, read, count / gpu.num_sms, float(np.ceil(count / gpu.num_sms)),
        count / gpu.num_sms - np.floor(count / gpu.num_sms), float(each.max()), total / count,
        float((each * live).std()), float(live.max()), float(live.mean()), split, float(launch.combine_bucket),
        float(launch.pack_gqa), float(launch.sm_margin), span / (2.15 * read), float(launch.num_splits),
    ]  # fmt: skip


def rows_of(table: Table, shapes: Sequence[ShapeLogs]) -> list[Rows]:
    """All shapes of a table as a learner sees them."""
    cases = {c.id: c for c in table.cases}
    return [_rows(table, cases[s.case_id], s, table.cells[s.case_id]) for s in shapes]


def _rows(table: Table, case: Case, logs: ShapeLogs, cells: Sequence[Cell]) -> Rows:
    setting, gpu = table.setting, table.gpu
    launches = [canonical_launch(case.shape, setting, c.decision, gpu) for c in cells]
    each = np.array([launch_features(case, setting, gpu, x) for x in launches])
    view, work = shape_view(case.shape, setting), work_view(case.shape, setting, 1)
    seen = np.array([
        view.batch, view.num_heads_kv, view.seqlen_k, view.num_n_blocks, view.total_mblocks,
        view.batch * view.num_heads_kv, view.batch * view.num_heads_kv * view.num_n_blocks / gpu.num_sms,
    ], float)  # fmt: skip
    lengths = np.array(work.n_blocks)
    batch = np.array([
        work.total_n_blocks, work.max_n_blocks, work.min_n_blocks, np.median(lengths), lengths.std(),
        work.total_n_blocks * work.num_heads_kv / gpu.num_sms,
    ], float)  # fmt: skip
    shared = np.repeat(np.concatenate([seen, batch])[None], len(cells), axis=0)
    baseline = np.repeat(each[:1], len(cells), axis=0)
    return Rows(
        logs,
        neighbourhood(case),
        np.hstack([each, each - baseline, shared]),
        seen[None],
        np.median(logs.logs, axis=1),
        {} if setting.mode is Mode.STATIC else _by_cap(case, setting, gpu, launches, cells),
    )


def _by_cap(
    case: Case, setting: Setting, gpu: Gpu, launches: Sequence[Launch], cells: Sequence[Cell]
) -> dict[int, list[int]]:
    at = {launch.key: i for i, launch in enumerate(launches)}
    longest = work_view(case.shape, setting, 1).max_n_blocks
    blocks = {c.decision.blocks_per_split for c in cells if c.decision.num_splits > 1}
    if not case.ragged:
        blocks |= {ceil_div(longest, live) for live in {x.live_splits[0] for x in launches}}
    found: dict[int, list[int]] = {}
    for cap in CAPS:
        asked = [Decision(cap)] if cap == 1 else [Decision(cap, blocks_per_split=b) for b in sorted(blocks)]
        keys = (canonical_launch(case.shape, setting, d, gpu).key for d in asked)
        if reached := sorted({at[k] for k in keys if k in at}):
            found[cap] = reached
    return found


def fitted(kind: str, features: Matrix, target: Matrix, seed: int) -> Any:
    """A learner, fitted. One thread: on shared cores more of them wait for each other."""
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    if kind == "gbdt":
        learner = HistGradientBoostingRegressor(
            max_iter=250,
            learning_rate=0.06,
            max_leaf_nodes=15,
            min_samples_leaf=25,
            max_features=0.4,
            random_state=seed,
        )
    elif kind == "trees":
        learner = ExtraTreesRegressor(60, min_samples_leaf=3, max_features=0.4, random_state=seed, n_jobs=1)
    else:
        near = KNeighborsRegressor(8, weights="distance")
        learner = make_pipeline(QuantileTransformer(n_quantiles=200, random_state=seed), near)
    return learner.fit(features, target)


def predictions(kind: str, train: Sequence[Rows], asked: Sequence[Rows], seed: int) -> list[Matrix]:
    """Predicted log speed-up of every launch; the baseline's is 0, which is known."""
    features = np.vstack([r.features[1:] for r in train])
    target = np.concatenate([np.maximum(r.gains[1:], -WORST) for r in train])
    flat = fitted(kind, features, target, seed).predict(np.vstack([r.features for r in asked]))
    found = np.split(flat, np.cumsum([len(r.gains) for r in asked])[:-1])
    for values in found:
        values[0] = 0.0
    return found


def gains_of(asked: Sequence[Rows], predicted: Sequence[Matrix]) -> list[float]:
    """Weighted gain of each shape's choice."""
    return [r.logs.weight * float(r.gains[int(p.argmax())]) for r, p in zip(asked, predicted, strict=True)]


def gains_with_caps(
    kind: str, train: Sequence[Rows], fitted_on: Sequence[Matrix], asked: Sequence[Rows], predicted: Sequence[Matrix]
) -> list[float]:
    """The same, decided as a program must: `schedule` picks a cap without the live lengths, then blocks_per_split.

    Learner `kind` learns what a cap is worth from the training shapes' predictions, by what `schedule` sees; within
    the cap the launch with the highest prediction is taken.
    """

    def worth(rows: Sequence[Rows], values: Sequence[Matrix], cap: int) -> list[float]:
        return [float(p[r.caps[cap]].max()) if cap in r.caps else -WORST for r, p in zip(rows, values, strict=True)]

    seen, wanted = (np.vstack([r.schedule_features for r in rows]) for rows in (train, asked))
    by_cap = [fitted(kind, seen, np.array(worth(train, fitted_on, cap)), 0).predict(wanted) for cap in CAPS]
    gains = []
    for k, (r, p) in enumerate(zip(asked, predicted, strict=True)):
        ranked = sorted(range(len(CAPS)), key=lambda c: -by_cap[c][k])
        cap = next(CAPS[c] for c in ranked if CAPS[c] in r.caps)
        gains.append(r.logs.weight * float(r.gains[max(r.caps[cap], key=lambda i: p[i])]))
    return gains


def some_groups(rows: Sequence[Rows], share: float, rng: np.random.Generator) -> list[Rows]:
    """The shapes of a random part of the neighbourhoods."""
    groups = sorted({r.group for r in rows})
    kept = {groups[i] for i in rng.permutation(len(groups))[: max(1, round(share * len(groups)))]}
    return [r for r in rows if r.group in kept]
