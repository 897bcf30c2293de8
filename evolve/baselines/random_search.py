"""Random search over the language: programs written at random, none derived from another. No model is asked."""

from __future__ import annotations

import random

from evaluators.data.contract import Mode
from evolve.baselines.problem import Problem
from evolve.baselines.tally import ComparisonBudgetSpent, Tally

SHAPE = ("batch", "seqlen_k", "num_heads_kv", "num_n_blocks", "total_mblocks")
WORK = ("batch", "num_heads_kv", "num_splits", "total_n_blocks", "max_n_blocks", "min_n_blocks")
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 132, 264)
DEPTH, RULES = 3, 3


def random_search(problem: Problem, tally: Tally, seed: int) -> None:
    """Spend the budget of tables and look-ups; nothing calls a model."""
    rng = random.Random(seed)
    metadata = problem.judge.setting.mode is not Mode.STATIC
    try:
        while True:
            tally.check()
            tally.judge(random_program(rng, metadata=metadata))
    except ComparisonBudgetSpent:
        pass


def random_program(rng: random.Random, *, metadata: bool) -> str:
    """Write a program of rules whose conditions and results are random expressions over the fields."""
    lines = ["import math", "", "", "def schedule(shape, gpu):"]
    lines += _rules(rng, SHAPE, "shape", "max(1, min(64, int({}))), None, 0", "0, None, 0")
    if metadata:
        lines += ["", "", "def blocks_per_split(work, gpu):"]
        lines += _rules(rng, WORK, "work", "max(1, int({}))", "0")
    return "\n".join(lines) + "\n"


def _rules(rng: random.Random, fields: tuple[str, ...], view: str, result: str, stock: str) -> list[str]:
    lines = []
    for _ in range(rng.randint(0, RULES)):
        left, right = _expression(rng, fields, view, 1), _expression(rng, fields, view, 1)
        lines.append(f"    if {left} {rng.choice(('<', '<=', '>', '>='))} {right}:")
        lines.append(f"        return {result.format(_expression(rng, fields, view, DEPTH))}")
    # FA3's own choice elsewhere, half of the time: it is best for most shapes.
    last = stock if rng.random() < 0.5 else result.format(_expression(rng, fields, view, DEPTH))
    return [*lines, f"    return {last}"]


def _expression(rng: random.Random, fields: tuple[str, ...], view: str, depth: int) -> str:
    kind = (
        rng.choice(("field", "number", "operator", "operator", "function"))
        if depth
        else rng.choice(("field", "number"))
    )
    if kind == "field":
        return f"{view}.{rng.choice(fields)}"
    if kind == "number":
        return str(rng.choice(SIZES))
    one, other = (_expression(rng, fields, view, depth - 1) for _ in range(2))
    if kind == "operator":
        op = rng.choice(("+", "-", "*", "/", "//"))
        return f"({one} {op} max(1, {other}))" if "/" in op else f"({one} {op} {other})"
    return rng.choice((f"min({one}, {other})", f"max({one}, {other})", f"math.ceil({one})"))
