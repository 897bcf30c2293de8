"""Costs as functions of a program: loops over the numbers of splits that keep the one with the lowest cost."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from evaluators.targets.target import EditRules
from evolve.mutation.cost_features import CANDIDATES, Factors
from evolve.mutation.syntax import drop_unused, functions, insert_function, replace_span

SPAN_NAME = "span_of"
SPAN = (
    f"def {SPAN_NAME}(work, gpu, blocks):",
    "    # When the last CTA ends if the longest start first: each takes its blocks, and one more to start and end.",
    "    # All that last at least `each` fill whole waves of SMs. Length and live splits are sorted as one number.",
    "    cuts = sorted([-512 * math.ceil(n / math.ceil(n / blocks)) - math.ceil(n / blocks) for n in work.n_blocks])",
    "    ctas = 0",
    "    last = 0",
    "    for cut in cuts:",
    "        ctas += -cut % 512 * TILES",
    "        each = -cut // 512 + 1",
    "        last = max(last, math.ceil(ctas / gpu.num_sms) * each)",
    "    load = work.total_n_blocks * TILES + ctas",
    "    return max(last, load / gpu.num_sms)",
)
"""Function of a program that computes `span`; 512 exceeds the live splits of any sequence (256)."""


def _tiles(rules: EditRules) -> str:
    """Programs for each split of a sequence."""
    return " * ".join(f"work.{name}" for name in rules.tile_factors)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Weighted sum of products; `terms` holds the names of each product's factors."""

    weights: tuple[float, ...]
    terms: tuple[Factors, ...]

    def text(self, argument: str) -> str:
        """The expression, with fields read from `argument`."""
        products = [
            " * ".join([f"{w:.2g}", *(n if n in CANDIDATES else f"{argument}.{n}" for n in names)])
            for w, names in zip(self.weights, self.terms, strict=True)
        ]
        return " + ".join(products).replace("+ -", "- ")


def helper(cost: CostModel, name: str, rules: EditRules, *, static: bool) -> list[str]:
    """Lines of the function that tries each number of splits and computes the quantities of the cost."""
    argument = "shape" if static else "work"
    longest = "shape.num_n_blocks" if static else "work.max_n_blocks"
    used = {factor for names in cost.terms for factor in names}
    quantities = [f"        blocks = math.ceil({longest} / splits)"] if not static or "blocks" in used else []
    if not static:
        beyond = f" or blocks > {rules.most_blocks}" if rules.most_blocks else ""
        quantities += [f"        if math.ceil({longest} / blocks) < splits{beyond}:", "            continue"]
    if used & {"tiles", "waves"}:
        quantities += (
            ["        tiles = splits * shape.total_mblocks"]
            if static
            else [
                "        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)",
                f"        tiles = tiles * {_tiles(rules)}",
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
        f"    for splits in range(1, min({rules.top_splits}, {longest}) + 1):",
        *quantities,
        f"        cost = {cost.text(argument)}",
        "        if cost < lowest:",
        "            lowest = cost",
        f"            chosen = {'splits' if static else 'blocks'}",
        "    return chosen",
    ]


def costs_of(source: str) -> dict[str, ast.Assign]:
    """Cost functions of a program: the statement `cost = ...` by function name."""
    return {
        name: node
        for name, function in functions(source).items()
        if name.startswith("cheapest")
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "cost"
    }


def read_cost(statement: ast.Assign) -> CostModel | None:
    """The cost in a statement; None if other edits have changed it into something else than a sum of products."""
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
    return CostModel(tuple(weights), tuple(terms)) if len(set(terms)) == len(terms) else None


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


def replace_cost(source: str, name: str, cost: CostModel, rules: EditRules, *, static: bool) -> str | None:
    """The program with another cost in one of its functions, which is rewritten."""
    changed = replace_span(source, functions(source)[name], "\n".join(helper(cost, name, rules, static=static)))
    changed = drop_unused(changed)
    return with_span(changed, name, cost, rules)


def with_span(source: str, name: str, cost: CostModel, rules: EditRules) -> str | None:
    """The program with the function that computes `span`, if the cost of function `name` needs it."""
    if not any("span" in names for names in cost.terms) or SPAN_NAME in functions(source):
        return source
    return insert_function(source, name, [line.replace("TILES", _tiles(rules)) for line in SPAN])
