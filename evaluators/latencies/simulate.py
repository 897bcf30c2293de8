"""Simulated latencies: a model of a launch's latency, fitted on few measured ones. Nothing here measures.

The work of a launch is cut into tiles as in the kernel, and assigned to SMs in the kernel's order. The latency is the
sum over phases in which fewer and fewer SMs are busy: with k busy SMs a block of keys takes the time of one SM alone,
or the time of memory for k blocks, whichever is longer (with a smooth maximum). Splits add a combine kernel. Eleven
parameters are fitted to the logarithms of latencies.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby

import numpy as np

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.data.errors import EXIT_MISSING, UserError
from evaluators.data.launches import AnyDecision, Cell
from evaluators.data.workloads import Case, Split
from evaluators.fa3.actions import recorded_actions
from evaluators.fa3.dispatch import blocks_of_sequences, ceil_div, is_local, shape_view
from evaluators.fa3.launch import canonical_launch, walked_splits
from evaluators.latencies.table import SIMULATED, Table

MIN_LAUNCHES = 64
"""Smallest number of measured launches for a fit."""

ROUNDS = 2
"""Identical rounds of a simulated launch: tables need two."""

PRIOR_WEIGHT = 0.01
"""Weight of the prior, which keeps undetermined parameters at their initial values."""

WHOLE_SHARE = 0.4
"""Share of the drawn launches that are taken from those that split nothing: few of a table are, and without them what
splitting costs is not told from what any launch does."""

OUTLIER = 0.05
"""Log error beyond which the robust loss reduces a launch's weight."""


@dataclass(frozen=True, slots=True)
class LaunchWork:
    """Work of a launch.

    Attributes:
        phases: blocks of the busiest SMs while exactly k SMs are busy, at index k; index 0 is unused.
        tiles: tiles of the SM that is busy longest.
        empty_tiles: splits without keys, per SM.
        block_bytes: bytes of K and V of one block.
        block_scores: scores of one block: block_m times block_n.
        readers: tiles that read the same block at about the same time, so that memory delivers it once: the query heads
            of a KV head if they are not packed.
        combined_splits: largest count of splits that a combine tile walks through; 0 if nothing is split.
        partial_bytes: fp32 partial outputs that the combine kernel reads.
        combine: True if a combine kernel is launched.
    """

    phases: tuple[float, ...]
    tiles: int
    empty_tiles: float
    block_bytes: int
    block_scores: int
    readers: int
    combined_splits: int
    partial_bytes: int
    combine: bool


def tiles_in_order(
    shape: DecodeShape, setting: Setting, live: Sequence[int], *, packed: bool
) -> tuple[list[tuple[int, int]], int]:
    """Pairs (KV blocks of a tile, number of such tiles) in scheduling order, and the number of tiles without keys.

    FA3 sorts sequences by the blocks of a split, longest first; vLLM's fork, and calls with a window, keep the batch's
    order. With a sliding window a tile begins at its first query's window.
    """
    view = shape_view(shape, setting)
    blocks = blocks_of_sequences(shape, setting)
    local = is_local(shape, setting)
    if local:
        most = ceil_div(shape.window + shape.seqlen_q - 1, view.block_n) + 1
        blocks = tuple([min(n, most) for n in blocks])
    if packed:
        each = shape.num_heads_kv * view.num_m_blocks
    else:
        each = shape.num_heads_q * ceil_div(shape.seqlen_q, view.block_m)
    sequences: list[list[tuple[int, int]]] = []
    empty = 0
    for n, splits in zip(blocks, live, strict=True):
        per_split = max(1, ceil_div(n, splits))
        full, rest = divmod(n, per_split)
        sequences.append([(size, count * each) for size, count in ((per_split, full), (rest, bool(rest))) if count])
        empty += (splits - full - bool(rest)) * each
    if not local and setting.provider != "vllm":
        sequences.sort(key=lambda tiles: -tiles[0][0] if tiles else 0)
    runs = groupby((tile for tiles in sequences for tile in tiles), key=lambda tile: tile[0])
    return [(size, sum(count for _, count in run)) for size, run in runs], empty


def busy_phases(tiles: Sequence[tuple[int, int]], num_sms: int) -> tuple[tuple[float, ...], int]:
    """Blocks of the busiest SMs while k SMs are busy (k from 0 to num_sms), and the number of tiles of the busiest SM.

    Each tile is assigned to the SM with the least work so far.
    """
    loads = [(0, 0)] * num_sms
    if len(tiles) == 1:
        blocks, count = tiles[0]
        waves, more = divmod(count, num_sms)
        loads = [((waves + 1) * blocks, waves + 1)] * more + [(waves * blocks, waves)] * (num_sms - more)
    else:
        for blocks, count in tiles:
            for _ in range(count):
                done, taken = loads[0]
                heapq.heapreplace(loads, (done + blocks, taken + 1))
        loads.sort(reverse=True)
    phases = [0.0] * (num_sms + 1)
    for k, (blocks, _) in enumerate(loads, start=1):
        phases[k] = float(blocks - (loads[k][0] if k < num_sms else 0))
    return tuple(phases), loads[0][1]


def work_of(shape: DecodeShape, setting: Setting, decision: AnyDecision, gpu: Gpu) -> LaunchWork:
    """Work of a decision's launch.

    Raises:
        UserError: a decision of another kernel than FA3's.
    """
    if not isinstance(decision, Decision):
        raise UserError(f"launches of {setting.provider} cannot be simulated", hint="a table of FA3's")
    launch = canonical_launch(shape, setting, decision, gpu)
    live = launch.live_splits * (shape.batch if setting.mode is Mode.STATIC else 1)
    tiles, empty = tiles_in_order(shape, setting, live, packed=launch.pack_gqa)
    num_sms = gpu.num_sms - launch.sm_margin
    phases, most_tiles = busy_phases(tiles, num_sms)
    phases += (0.0,) * (gpu.num_sms + 1 - len(phases))
    view = shape_view(shape, setting)
    rows = shape.num_heads_q * shape.seqlen_q
    return LaunchWork(
        phases=phases,
        tiles=most_tiles,
        empty_tiles=empty / num_sms,
        block_bytes=view.block_n * (shape.head_dim + shape.v_head_dim) * setting.element_bytes,
        block_scores=view.block_m * view.block_n,
        readers=1 if launch.pack_gqa else shape.qheads_per_kvhead,
        combined_splits=walked_splits(shape, max(live), launch.combine_bucket),
        partial_bytes=sum(s for s in live if s > 1) * rows * shape.v_head_dim * 4,
        combine=launch.combine_bucket > 0,
    )


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """A fitted model; all numbers positive.

    Attributes:
        fixed_us: fixed time of a launch.
        tile_us: prologue and epilogue of a tile.
        empty_us: time of a tile without keys.
        block_us_per_mb: time of one SM alone for a megabyte of K and V.
        scores_us_per_million: time of one SM for a million scores, for any head size.
        bandwidth_mb_per_us: memory bandwidth.
        corner: sharpness of the smooth maximum.
        combine_us: time of a combine kernel with work.
        combine_split_us: time per split that the combine kernel walks through.
        combine_mb_per_us: rate of writing and reading partial outputs.
        launch_us: time of a combine kernel without work.
    """

    fixed_us: float = 7.0
    tile_us: float = 0.3
    empty_us: float = 0.5
    block_us_per_mb: float = 13.0
    scores_us_per_million: float = 30.0
    bandwidth_mb_per_us: float = 3.0
    corner: float = 3.0
    combine_us: float = 0.5
    combine_split_us: float = 0.05
    combine_mb_per_us: float = 3.0
    launch_us: float = 0.2

    def predict(self, works: Sequence[LaunchWork]) -> np.ndarray:
        """Predict the latency of each launch in microseconds."""
        return _predict(np.log(np.array([getattr(self, f.name) for f in fields(self)])), _columns(works))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Work of many launches as arrays; `blocks` has megabytes, millions of scores and readers of each kind of block."""

    phases: np.ndarray
    tiles: np.ndarray
    empty: np.ndarray
    blocks: np.ndarray
    kinds: np.ndarray
    splits: np.ndarray
    partial_mb: np.ndarray
    combine: np.ndarray


def _columns(works: Sequence[LaunchWork]) -> _Columns:
    blocks, kinds = np.unique(
        [(w.block_bytes / 1e6, w.block_scores / 1e6, w.readers) for w in works], axis=0, return_inverse=True
    )
    return _Columns(
        phases=np.array([w.phases for w in works]),
        tiles=np.array([w.tiles for w in works], dtype=float),
        empty=np.array([w.empty_tiles for w in works]),
        blocks=blocks,
        kinds=kinds.reshape(-1),
        splits=np.array([w.combined_splits for w in works], dtype=float),
        partial_mb=np.array([w.partial_bytes for w in works]) / 1e6,
        combine=np.array([w.combine for w in works], dtype=float),
    )


def _predict(log_numbers: np.ndarray, c: _Columns) -> np.ndarray:
    fixed, tile, empty, block, scores, bandwidth, corner, combine, per_split, combine_bandwidth, launch = np.exp(
        log_numbers
    )
    busy = np.arange(c.phases.shape[1])
    sharp = 1 + corner
    core = tile * c.tiles + empty * c.empty
    for kind, (block_mb, block_scores, readers) in enumerate(c.blocks):
        alone = block * block_mb + scores * block_scores
        block_us = (alone**sharp + (block_mb * busy / (readers * bandwidth)) ** sharp) ** (1 / sharp)
        core = core + (c.kinds == kind) * (c.phases @ block_us)
    split = (c.splits > 0) * (combine + per_split * c.splits + 2 * c.partial_mb / combine_bandwidth)
    found: np.ndarray = fixed + core + split + c.combine * launch
    return found


def fit_model(works: Sequence[LaunchWork], latencies_us: Sequence[float]) -> LatencyModel:
    """Fit the model with a robust loss.

    Raises:
        UserError: fewer than `MIN_LAUNCHES`, or no scipy.
    """
    if len(works) < MIN_LAUNCHES:
        raise UserError(f"{len(works)} measured launches: simulating needs {MIN_LAUNCHES}", hint="record more shapes")
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        hint = "pip install 'evosplit[simulate]'"
        raise UserError("simulating needs scipy", hint=hint, exit_code=EXIT_MISSING) from error
    columns, logs = _columns(works), np.log(np.array(latencies_us))
    start = np.log(np.array([getattr(LatencyModel(), f.name) for f in fields(LatencyModel)]))
    # least_squares applies one loss to all residuals: the prior's are small, where the loss is the square.
    weight = PRIOR_WEIGHT * math.sqrt(len(works) / MIN_LAUNCHES)

    def residuals(numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([np.log(_predict(numbers, columns)) - logs, weight * (numbers - start)])

    fitted = least_squares(residuals, start, loss="soft_l1", f_scale=OUTLIER)
    return LatencyModel(*(float(v) for v in np.exp(fitted.x)))


@dataclass(frozen=True, slots=True)
class SimulationQuality:
    """Difference between simulated and measured latencies.

    Attributes:
        shapes: number of shapes with at least two launches.
        launches: number of their launches.
        log_error: standard deviation of the logarithm of simulated over measured latency.
        rank_correlation: Spearman's, over all launches.
        oracle_loss: relative excess latency of the launches that the simulation would choose over the best measured
            ones, mean over shapes.
        gain_kept: log speed-up over the baseline of the chosen launches, as a share of that of the best.
    """

    shapes: int
    launches: int
    log_error: float
    rank_correlation: float
    oracle_loss: float
    gain_kept: float


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Ranks from 0; ties get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def compare(measured: Mapping[str, Sequence[float]], simulated: Mapping[str, Sequence[float]]) -> SimulationQuality:
    """Compare latencies of the same launches by shape, the baseline's first.

    Raises:
        ValueError: no shape with two launches.
    """
    shapes = [name for name, values in measured.items() if len(values) > 1]
    if not shapes:
        raise ValueError("no shape with two measured launches")
    ours = np.concatenate([np.array(simulated[s]) for s in shapes])
    theirs = np.concatenate([np.array(measured[s]) for s in shapes])
    losses, gained, best = [], 0.0, 0.0
    for name in shapes:
        values = np.array(measured[name])
        chosen = values[int(np.argmin(simulated[name]))]
        losses.append(float(chosen / values.min() - 1))
        gained += math.log(values[0] / chosen)
        best += math.log(values[0] / values.min())
    return SimulationQuality(
        shapes=len(shapes),
        launches=len(ours),
        log_error=float(np.std(np.log(ours / theirs))),
        rank_correlation=float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1]),
        oracle_loss=statistics.fmean(losses),
        gain_kept=gained / best if best else 1.0,
    )


def drawn(cases: Sequence[Case], cells: Mapping[str, Sequence[Cell]], count: int, seed: int) -> list[tuple[Case, Cell]]:
    """So many launches of measured shapes, one shape after the other in random order, round after round."""
    rng = random.Random(seed)
    pools = {c: list(cells[c.id]) for c in rng.sample(cases, len(cases))}
    found: list[tuple[Case, Cell]] = []
    while len(found) < count:
        for case, pool in pools.items():
            if pool and len(found) < count:
                whole = [cell for cell in pool if cell.decision.num_splits == 1]
                cell = rng.choice(whole if whole and rng.random() < WHOLE_SHARE else pool)
                pool.remove(cell)
                found.append((case, cell))
    return found


def fit_table(table: Table, launches: int = 0, seed: int = 0) -> tuple[LatencyModel, SimulationQuality | None, int]:
    """Fit on launches of a table's training shapes, and compare on its holdout shapes; sealed shapes are not used.

    `launches` of the table are used, drawn by shapes; 0 for all.

    Returns:
        The model, its quality on the holdout if there is one, and the number of launches in the fit.

    Raises:
        UserError: too few launches, or the table is itself simulated.
    """
    if str(table.card["build"]).startswith(SIMULATED):
        raise UserError("the table is simulated itself", hint="fit on a measured one")
    train = [c for c in table.cases if c.split is Split.TRAIN]
    known = sum(len(table.cells[c.id]) for c in train)
    if launches > known:
        raise UserError(f"--launches {launches}: the training shapes have {known}")
    rows = drawn(train, table.cells, launches or known, seed)
    works = [work_of(c.shape, table.setting, cell.decision, table.gpu) for c, cell in rows]
    model = fit_model(works, [statistics.median(cell.latencies_us) for _, cell in rows])
    others = [c for c in table.cases if c.split is Split.HOLDOUT and len(table.cells[c.id]) > 1]
    return model, compare_cases(table, model, others) if others else None, len(rows)


def compare_cases(table: Table, model: LatencyModel, cases: Sequence[Case]) -> SimulationQuality:
    """Error of a model on some shapes of a measured table."""
    measured = {c.id: [statistics.median(x.latencies_us) for x in table.cells[c.id]] for c in cases}
    simulated = {
        c.id: model.predict(
            [work_of(c.shape, table.setting, x.decision, table.gpu) for x in table.cells[c.id]]
        ).tolist()
        for c in cases
    }
    return compare(measured, simulated)


def simulated_cells(model: LatencyModel, case: Case, setting: Setting, gpu: Gpu) -> tuple[Cell, ...]:
    """Launches that a recording would measure for a shape, with simulated latencies; the baseline's first."""
    actions = recorded_actions(case.shape, setting, gpu)
    found = model.predict([work_of(case.shape, setting, decision, gpu) for decision, _ in actions.values()])
    return tuple(
        Cell(decision, key, 0.0, (round(float(us), 3),) * ROUNDS)
        for (key, (decision, _)), us in zip(actions.items(), found, strict=True)
    )


def simulated_card(
    table: Table, workload: str, model: LatencyModel, error: SimulationQuality | None, launches: int
) -> dict[str, object]:
    """Card of a simulated table: GPU and build begin with `SIMULATED`; it names the measured table behind it.

    `error` is the quality on measured shapes outside the fit, `launches` the number in the fit.
    """
    device = dict(table.card["device"])
    device["name"] = f"{SIMULATED} {device['name']}"
    return {
        "format": table.card["format"],
        "setting": table.setting.name,
        **table.setting.as_json(),
        "workload": workload,
        "build": f"{SIMULATED} from {launches} launches of {table.card['build']}",
        "device": device,
        "rounds": ROUNDS,
        "simulated": {
            "fitted_on": launches,
            "measured_table": table.digest,
            "model": asdict(model),
            "error_on_other_shapes": asdict(error) if error else None,
        },
    }  # fmt: skip
