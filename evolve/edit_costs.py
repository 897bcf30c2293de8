"""Edits that add a cost: try each number of splits of the longest sequence, take the one with the lowest cost.

A cost is a weighted sum of generic terms of a candidate: products of its splits, its blocks per split, the tiles that
would run, their waves over the SMs, the time at which the last of them ends, and fields of the batch. Which terms and
which weights is searched on the recorded curves of the training shapes. No cost known to be good is written down here.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evolve.curves import Curves
from evolve.edit_guards import CONDITIONS, MIN_GAIN, TOP_SPLITS, grow_box, terms_for
from evolve.edit_syntax import drop_unused, functions, insert_at_top, insert_function, replace_body, replace_span

Matrix = NDArray[np.float64]

CANDIDATES = ("splits", "blocks", "tiles", "waves", "span")
"""Quantities of a candidate. `span` is in blocks and exists where a prepare kernel cuts each sequence by itself: there
CTAs differ in length, and their number alone does not say when the last one ends."""

MAX_TERMS = 5
FIT_STEPS = 80
"""Changes of weights tried on the recorded curves in one edit."""

FITS = 6
"""Costs tried in one edit."""

BOXES_TRIED = 30

MAX_COSTS = 3
"""Cost functions in one program; each loops over all sequences of the batch for each split count."""

SHADOW = 0.5
"""How much a shape that loses counts while weights are fitted: a condition may keep it out afterwards."""

Factors = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """A weighted sum of products; `terms` holds the names of each product's factors."""

    weights: tuple[float, ...]
    terms: tuple[Factors, ...]

    def text(self, argument: str) -> str:
        """The expression, with fields read from `argument`."""
        products = [
            " * ".join([f"{w:.2g}", *(n if n in CANDIDATES else f"{argument}.{n}" for n in names)])
            for w, names in zip(self.weights, self.terms, strict=True)
        ]
        return " + ".join(products).replace("+ -", "- ")


class Candidates:
    """What each split count would mean on each training shape: matrices of (shapes, split counts)."""

    def __init__(self, curves: Curves, *, span: bool = True) -> None:
        """Tabulate the quantities; impossible split counts are masked by `possible`."""
        self.fields = curves.table.shape_columns if curves.table.static else curves.table.work_columns
        longest, sequences, heads = curves.table.longest, curves.table.n_blocks, curves.table.tiles_each
        self.splits = np.arange(1, TOP_SPLITS + 1)
        blocks = -(-longest[:, None] // self.splits[None, :])
        self.possible = self.splits[None, :] <= longest[:, None]
        if not curves.table.static:
            # As in `helper`: blocks per split that an earlier split count had are the same launch.
            self.possible &= -(-longest[:, None] // blocks) == self.splits
        tiles = np.array(
            [
                heads[i] * _ceil_sums(sequences[i], tuple(row)) if not curves.table.static else heads[i] * self.splits
                for i, row in enumerate(blocks.tolist())
            ]
        )
        sms = curves.table.num_sms
        self.quantities: dict[str, Matrix] = {
            "splits": np.broadcast_to(self.splits.astype(float), blocks.shape),
            "blocks": blocks.astype(float),
            "tiles": tiles.astype(float),
            "waves": np.ceil(tiles / sms),
        }
        if span and not curves.table.static:
            self.quantities["span"] = np.array(
                [_spans(sequences[i], tuple(row), heads[i], sms) for i, row in enumerate(blocks.tolist())]
            )
        self.values = np.broadcast_to(self.splits, blocks.shape) if curves.table.static else blocks

    def term(self, names: Factors) -> Matrix:
        """A product of candidate quantities and fields."""
        product: Matrix = np.ones_like(self.quantities["blocks"])
        for name in names:
            product = product * (self.quantities[name] if name in CANDIDATES else self.fields[name][:, None])
        return product

    def costs(self, weights: Sequence[float], terms: Sequence[Matrix]) -> Matrix:
        """Cost of each split count, per shape; infinite where there are fewer blocks."""
        total = np.where(self.possible, 0.0, np.inf)
        for weight, term in zip(weights, terms, strict=True):
            total += weight * term
        return total

    def cheapest(self, weights: Sequence[float], terms: Sequence[Matrix]) -> NDArray[np.intp]:
        """Index of the first split count with the lowest cost, per shape."""
        chosen: NDArray[np.intp] = self.costs(weights, terms).argmin(axis=1)
        return chosen


@lru_cache(maxsize=1 << 16)
def _ceil_sums(sequences: tuple[int, ...], blocks: tuple[int, ...]) -> NDArray[np.int64]:
    """Splits in all when each sequence is cut every `blocks`, for each entry of `blocks`."""
    lengths = np.array(sequences)[:, None]
    sums: NDArray[np.int64] = (-(-lengths // np.array(blocks)[None, :])).sum(axis=0)
    return sums


@lru_cache(maxsize=1 << 14)
def _spans(sequences: tuple[int, ...], blocks: tuple[int, ...], heads: int, num_sms: int) -> Matrix:
    """`span` in a program (see `SPAN`), for each entry of `blocks`."""
    lengths = np.array(sequences)[None, :]
    live = -(-lengths // np.array(blocks)[:, None])
    each = -(-lengths // live) + 1
    order = np.argsort(-each, axis=1, kind="stable")
    ctas = np.cumsum(np.take_along_axis(live, order, axis=1), axis=1) * heads
    waves = -(-ctas // num_sms)
    last = (waves * np.take_along_axis(each, order, axis=1)).max(axis=1)
    spans: Matrix = np.maximum(last, (lengths.sum() + live.sum(axis=1)) * heads / num_sms)
    return spans


def _random_term(quantities: Sequence[str], fields: Sequence[str], rng: random.Random) -> Factors:
    names = [rng.choice(quantities)]
    names += [rng.choice([*quantities, *quantities, *fields]) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    return tuple(sorted(names))


def _changed_terms(
    terms: list[Factors], quantities: Sequence[str], fields: Sequence[str], rng: random.Random
) -> list[Factors]:
    """A term more, a term less, or another one."""
    kept = list(terms)
    move = rng.random()
    if len(kept) > 1 and (move < 0.3 or len(kept) >= MAX_TERMS):
        kept.pop(rng.randrange(len(kept)))
    elif move > 0.7 and kept:
        kept[rng.randrange(len(kept))] = _random_term(quantities, fields, rng)
    else:
        kept.append(_random_term(quantities, fields, rng))
    return kept


def _rounded(weight: float) -> float:
    """Two digits, as a person would write it."""
    return float(f"{weight:.2g}")


def fit_cost(
    curves: Curves, tabulated: Candidates, worth: Matrix, rng: random.Random, *, start: Cost | None
) -> tuple[Cost, NDArray[np.intp]]:
    """A cost with its weights fitted, and the split counts that it chooses.

    Args:
        curves: the parent on the training shapes.
        tabulated: quantities of each split count.
        worth: what each split count is worth on each shape, beyond the parent's decision.
        rng: all chance.
        start: a cost to change; None for a new one.
    """
    quantities = list(tabulated.quantities)
    fields = [n for n in tabulated.fields if tabulated.fields[n].min() > 0]
    if start is None:
        terms = [_random_term(quantities, fields, rng) for _ in range(rng.choice((2, 3, 3, 4)))]
        weights = [0.0] * len(terms)
    else:
        terms = _changed_terms(list(start.terms), quantities, fields, rng) if rng.random() < 0.6 else list(start.terms)
        known = dict(zip(start.terms, start.weights, strict=True))
        weights = [known.get(t, 0.0) for t in terms]
    matrices = [tabulated.term(t) for t in terms]
    sizes = [float(np.mean(m[tabulated.possible])) for m in matrices]
    level = max((abs(w) * s for w, s in zip(weights, sizes, strict=True)), default=0.0) or 1.0
    weights = [_rounded(w or level * math.exp(rng.gauss(-1, 1.2)) / s) for w, s in zip(weights, sizes, strict=True)]
    rows = np.arange(len(worth))

    def score(costs: Matrix) -> tuple[float, NDArray[np.intp]]:
        chosen = costs.argmin(axis=1)
        gains = worth[rows, chosen]
        curves.look_ups += len(gains)
        return float(gains.sum() + (SHADOW - 1) * gains[gains < 0].sum()), chosen

    costs = tabulated.costs(weights, matrices)
    best, chosen = score(costs)
    for _ in range(FIT_STEPS):
        k = rng.randrange(len(weights))
        factor = math.exp(rng.gauss(0, 0.5)) * (-1 if rng.random() < 0.05 else 1)
        weight = _rounded(weights[k] * factor)
        trial = costs + (weight - weights[k]) * matrices[k]
        found, now = score(trial)
        if found >= best:
            weights[k], costs, best, chosen = weight, trial, found, now
    return Cost(tuple(weights), tuple(terms)), chosen


SPAN_NAME = "span_of"
SPAN = [
    f"def {SPAN_NAME}(work, gpu, blocks):",
    "    # When the last CTA ends if the longest start first: each takes its blocks, and one more to start and end.",
    "    # All that last at least `each` fill whole waves of SMs. Length and live splits are sorted as one number.",
    "    cuts = sorted([-512 * math.ceil(n / math.ceil(n / blocks)) - math.ceil(n / blocks) for n in work.n_blocks])",
    "    ctas = 0",
    "    last = 0",
    "    for cut in cuts:",
    "        ctas += -cut % 512 * work.num_heads_kv * work.num_m_blocks",
    "        each = -cut // 512 + 1",
    "        last = max(last, math.ceil(ctas / gpu.num_sms) * each)",
    "    load = work.total_n_blocks * work.num_heads_kv * work.num_m_blocks + ctas",
    "    return max(last, load / gpu.num_sms)",
]
"""Function of a program that says what `span` is; 512 is more than any sequence can have live splits (256)."""


def helper(cost: Cost, name: str, *, static: bool) -> list[str]:
    """The function that tries each number of splits, as lines of a program; it works out what the cost reads."""
    argument = "shape" if static else "work"
    longest = "shape.num_n_blocks" if static else "work.max_n_blocks"
    used = {factor for names in cost.terms for factor in names}
    quantities = [f"        blocks = math.ceil({longest} / splits)"] if not static or "blocks" in used else []
    if not static:
        quantities += [f"        if math.ceil({longest} / blocks) < splits:", "            continue"]
    if used & {"tiles", "waves"}:
        quantities += (
            ["        tiles = splits * shape.total_mblocks"]
            if static
            else [
                "        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)",
                "        tiles = tiles * work.num_heads_kv * work.num_m_blocks",
            ]
        )
    if "waves" in used:
        quantities.append("        waves = math.ceil(tiles / gpu.num_sms)")
    if "span" in used:
        quantities.append(f"        span = {SPAN_NAME}(work, gpu, blocks)")
    return [
        f"def {name}({argument}, gpu):",
        "    lowest = 1e30",
        "    chosen = 1",
        f"    for splits in range(1, min({TOP_SPLITS}, {longest}) + 1):",
        *quantities,
        f"        cost = {cost.text(argument)}",
        "        if cost < lowest:",
        "            lowest = cost",
        f"            chosen = {'splits' if static else 'blocks'}",
        "    return chosen",
    ]


def add_cost(source: str, curves: Curves, rng: random.Random, *, support: int, span: bool = True) -> str | None:
    """Let a new cost decide, where the curves say that it gains; None where it gains nowhere.

    Args:
        source: the parent.
        curves: the parent on the training shapes.
        rng: all chance.
        support: training shapes that the cost must change at least.
        span: whether its terms may read `span`.
    """
    taken = costs_of(source)
    if len(taken) >= MAX_COSTS:
        return None
    function = "schedule" if curves.table.static else "blocks_per_split"
    tabulated = Candidates(curves, span=span)
    worth = _worth(curves, tabulated)
    rows = np.arange(len(worth))
    cost: Cost | None = None
    best = -math.inf
    for _ in range(FITS):
        trial, chosen = fit_cost(curves, tabulated, worth, rng, start=cost if rng.random() < 0.6 else None)
        gains = worth[rows, chosen]
        if (found := float(np.where(gains < 0, SHADOW * gains, gains).sum())) > best:
            best, cost, kept = found, trial, gains
    assert cost is not None
    pool = terms_for(curves, function)
    condition, gain = "", float(kept.sum())
    positive = np.flatnonzero(kept > 0).tolist()
    for _ in range(BOXES_TRIED if positive else 0):
        start = rng.choices(positive, weights=kept[positive].tolist())[0]
        box = grow_box(kept, rng.sample(pool, rng.choice(CONDITIONS)), start)
        if box.gain > max(gain, MIN_GAIN) and (np.abs(kept[box.mask]) > 1e-9).sum() >= support:
            condition, gain = box.text, box.gain
    if gain <= MIN_GAIN:
        return None
    name = next(n for n in ("cheapest", "cheapest_2", "cheapest_3") if n not in functions(source))
    call = f"return {name}(work, gpu)" if not curves.table.static else f"return {name}(shape, gpu), None, 0"
    if condition:
        changed = insert_at_top(source, function, [f"    if {condition}:", f"        {call}"])
    else:
        changed = replace_body(source, function, [f"    {call}"])
    changed = changed and insert_function(changed, function, helper(cost, name, static=curves.table.static))
    return changed and _with_span(changed, name, cost)


def refit_cost(source: str, curves: Curves, rng: random.Random, *, support: int, span: bool = True) -> str | None:
    """Change terms and weights of a cost that the program has; None where it has none or nothing gains.

    Arguments are those of `add_cost`; without `span`, a cost that reads it is left alone. The shapes that the cost
    decides are taken to be those whose decision is the one that it chooses.
    """
    readable = [(name, node, cost) for name, node in costs_of(source).items() if (cost := read_cost(node)) is not None]
    if not readable:
        return None
    name, _, cost = rng.choice(readable)
    tabulated = Candidates(curves, span=span)
    if not {n for names in cost.terms for n in names} <= tabulated.fields.keys() | tabulated.quantities.keys():
        return None
    rows = np.arange(len(curves.table.longest))
    chosen = tabulated.cheapest(cost.weights, [tabulated.term(t) for t in cost.terms])
    present = np.array(curves.num_splits if curves.table.static else curves.blocks)
    decided = tabulated.values[rows, chosen] == present
    if decided.sum() < support:
        return None
    worth = np.where(decided[:, None], _worth(curves, tabulated), 0.0)
    best: Cost | None = None
    gain = MIN_GAIN
    for _ in range(FITS):
        trial, now = fit_cost(curves, tabulated, worth, rng, start=best or cost)
        if (found := float(worth[rows, now].sum())) > gain:
            best, gain = trial, found
    return replace_cost(source, name, best, static=curves.table.static) if best else None


def _worth(curves: Curves, tabulated: Candidates) -> Matrix:
    """What each split count gains on each shape over the present decision, under the present caps."""
    now = curves.value(curves.num_splits, curves.blocks)
    columns = []
    for k in range(len(tabulated.splits)):
        values = tabulated.values[:, k].tolist()
        splits, blocks = (values, curves.blocks) if curves.table.static else (curves.num_splits, values)
        columns.append(curves.value(splits, blocks) - now)
    return np.where(tabulated.possible, np.stack(columns, axis=1), -1.0)


def costs_of(source: str) -> dict[str, ast.Assign]:
    """Cost functions of a program: the statement `cost = ...` by function name."""
    return {
        name: node
        for name, function in functions(source).items()
        if name.startswith("cheapest")
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "cost"
    }


def read_cost(statement: ast.Assign) -> Cost | None:
    """The cost that a statement spells out; None when other edits made it something else than a sum of products."""
    weights, terms = [], []
    for sign, product in _summands(statement.value, 1.0):
        weight, names = sign, []
        for factor in _factors(product):
            if isinstance(factor, ast.Constant) and isinstance(factor.value, int | float):
                weight *= factor.value
            elif isinstance(factor, ast.Name) and factor.id in CANDIDATES:
                names.append(factor.id)
            elif isinstance(factor, ast.Attribute):
                names.append(factor.attr)
            else:
                return None
        if not names:
            return None
        weights.append(weight)
        terms.append(tuple(sorted(names)))
    return Cost(tuple(weights), tuple(terms)) if len(set(terms)) == len(terms) else None


def _summands(node: ast.expr, sign: float) -> list[tuple[float, ast.expr]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        right = -sign if isinstance(node.op, ast.Sub) else sign
        return [*_summands(node.left, sign), *_summands(node.right, right)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _summands(node.operand, -sign)
    return [(sign, node)]


def _factors(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*_factors(node.left), *_factors(node.right)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [ast.Constant(-1.0), *_factors(node.operand)]
    return [node]


def replace_cost(source: str, name: str, cost: Cost, *, static: bool) -> str | None:
    """The program with another cost in one of its functions, which is written anew."""
    changed = replace_span(source, functions(source)[name], "\n".join(helper(cost, name, static=static)))
    changed = drop_unused(changed)
    return _with_span(changed, name, cost)


def _with_span(source: str, name: str, cost: Cost) -> str | None:
    """The program with the function that works out `span`, where the cost of function `name` needs it."""
    if not any("span" in names for names in cost.terms) or SPAN_NAME in functions(source):
        return source
    return insert_function(source, name, SPAN)
