"""Finds the search in a `blocks_per_split`: a loop over sizes of split that keeps the one of least cost.

The loop may read the list of sequences only by sums, maxima and minima of whole numbers over the whole batch: a device
can then try 32 candidates at a time, one per lane. All else about a candidate is arithmetic on these. A loop of this
form that does not read the list is divided among lanes too.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evaluators.language.cpp.normalise import Form, NotExpressible, stored_names
from evolve.export.patch.inlining import (
    BLOCKS,
    Inliner,
    Values,
    assigned,
    fresh_name,
    names_in,
    reads_list,
    refused,
)

REDUCERS = ("sum", "max", "min")
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reduction:
    """One number over the batch, for one candidate.

    Attributes:
        name: name in the program, or a new one.
        how: sum, max or min.
        item: name of a sequence's number of blocks in `value`.
        value: value that is added or compared.
    """

    name: str
    how: str
    item: str
    value: ast.expr
    line: int


@dataclass(slots=True)
class CandidateSearch:
    """Parts of a loop over candidates.

    Attributes:
        before: statements in front of it.
        first: smallest candidate.
        last: largest candidate.
        prefix: statements that the reductions need, from the candidate alone.
        reductions: reductions over the batch.
        costs: statements from the reductions to the cost.
        better: comparison of a cost with the least so far.
        key: name of the least cost.
        best: name of the kept value.
        chosen: value that is kept of a candidate; None for the candidate itself.
        start: result if no candidate is better than `limit`; None if the first one is always kept.
        limit: cost to beat.
        after: statements behind the loop.
    """

    before: list[ast.stmt]
    counter: str
    first: ast.expr
    last: ast.expr
    prefix: list[ast.stmt]
    reductions: list[Reduction]
    costs: list[ast.stmt]
    cost: str
    better: type[ast.cmpop]
    key: str
    best: str
    chosen: ast.expr | None
    start: ast.expr | None
    limit: ast.expr | None
    after: list[ast.stmt]
    line: int


@dataclass(slots=True)
class Kept:
    """Comparison in the last statement of the loop."""

    cost: ast.expr
    better: type[ast.cmpop]
    key: str
    best: str
    chosen: ast.expr


def find_search(form: Form) -> CandidateSearch | None:
    """Find the search of a program; None if there is none and the program does not read the list of sequences.

    Raises:
        NotExpressible: it reads the list in another way, with the line.
    """
    reading = [i for i, s in enumerate(form.body) if reads_list(s, form.helpers)]
    if reading:
        return _search_at(form, reading)
    loops = [i for i, s in enumerate(form.body) if isinstance(s, ast.For)]
    try:
        return _search_at(form, loops) if loops else None
    except NotExpressible:
        return None


def _search_at(form: Form, reading: Sequence[int]) -> CandidateSearch:
    """Parts of the loop at the last of some places in the body."""
    helpers = form.helpers
    body = copy.deepcopy(form.body)
    loop = body[reading[-1]]
    if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Name):
        raise refused(loop, "the rule reads n_blocks outside a loop over candidates")
    first, last = _bounds(loop)
    kept = kept_of(loop)
    before, start, limit = _without_start(body[: reading[-1]], kept)
    if any(reads_list(s, helpers) for s in before):
        raise refused(body[reading[0]], "the rule reads n_blocks outside its loop over candidates")
    counter = loop.target.id
    steps = list(loop.body[:-1])
    if isinstance(kept.cost, ast.Name):
        cost = kept.cost.id
    else:
        cost = fresh_name("cost", names_in([*body, *helpers.values()]))
        steps.append(assigned(cost, kept.cost))
    whole = limit is not None and reads_list(limit, helpers)
    if whole:
        first = _from_the_first(loop, kept, start, limit, counter, first)
    taken = names_in([*body, *helpers.values()])
    steps = Inliner(form, taken).inlined(steps)
    found = CandidateSearch(
        before=before, counter=counter, first=first, last=last, prefix=[], reductions=[], costs=[], cost=cost,
        better=kept.better, key=kept.key, best=kept.best, after=body[reading[-1] + 1 :], line=loop.lineno,
        chosen=None if _is_name(kept.chosen, counter) else kept.chosen, start=None if whole else start,
        limit=None if whole else limit,
    )  # fmt: skip
    _take_reductions(found, steps, helpers, taken)
    _check_names(found)
    return found


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _bounds(loop: ast.For) -> tuple[ast.expr, ast.expr]:
    """First and last candidate of `for ... in range(...)`."""
    made = loop.iter
    is_range = isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == "range"
    if not is_range or loop.orelse:
        raise refused(loop, "a loop over candidates is `for blocks in range(first, end)`")
    assert isinstance(made, ast.Call)
    if len(made.args) == 3:
        raise refused(loop, "a loop over candidates takes steps of 1")
    first: ast.expr = made.args[0] if len(made.args) == 2 else ast.Constant(0)
    end = made.args[-1]
    if isinstance(end, ast.BinOp) and isinstance(end.op, ast.Add) and ast.unparse(end.right) == "1":
        return first, end.left
    return first, ast.copy_location(ast.BinOp(end, ast.Sub(), ast.Constant(1)), end)


def kept_of(loop: ast.For) -> Kept:
    """The comparison that ends the loop's body, and the values that it keeps."""
    test = loop.body[-1]
    shape = "the loop over candidates ends with `if cost < best_cost:` and keeps the candidate and its cost"
    jumps = [n for s in loop.body for n in ast.walk(s) if isinstance(n, ast.Break | ast.Continue | ast.Return)]
    if jumps:
        raise refused(jumps[0], "break, continue and return in a loop over candidates")
    if not isinstance(test, ast.If) or test.orelse or not isinstance(test.test, ast.Compare):
        raise refused(test, shape)
    pairs = [pair for s in test.body for pair in _pairs(s)]
    compare = test.test
    if len(pairs) != 2 or len(compare.ops) != 1 or type(compare.ops[0]) not in TURNED:
        raise refused(test, shape)
    for cost, key, better in (
        (compare.left, compare.comparators[0], type(compare.ops[0])),
        (compare.comparators[0], compare.left, TURNED[type(compare.ops[0])]),
    ):
        for (name, value), (other, chosen) in (pairs, pairs[::-1]):
            if _is_name(key, name) and ast.dump(value) == ast.dump(cost) and name != other:
                return Kept(cost, better, name, other, chosen)
    raise refused(test, shape)


def _pairs(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Name and value of each part of an assignment; refuses other statements."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            yield target.id, node.value
            return
        named = [t.id for t in target.elts if isinstance(t, ast.Name)] if isinstance(target, ast.Tuple) else []
        if named and isinstance(node.value, ast.Tuple) and len(named) == len(node.value.elts):
            yield from zip(named, node.value.elts, strict=True)
            return
    raise refused(node, "the loop over candidates keeps the candidate and its cost, nothing else")


def _without_start(before: list[ast.stmt], kept: Kept) -> tuple[list[ast.stmt], ast.expr, ast.expr]:
    """Statements in front of the loop without the first values of best candidate and least cost, and these values."""
    values: dict[str, ast.expr] = {}
    left: list[ast.stmt] = []
    for node in before:
        if not stored_names([node]) & {kept.best, kept.key}:
            left.append(node)
            continue
        pairs = dict(_pairs(node))
        if set(pairs) - {kept.best, kept.key} or values.keys() & pairs.keys():
            raise refused(node, f"{kept.best} and {kept.key} are set once in front of the loop")
        values |= pairs
    if values.keys() != {kept.best, kept.key}:
        raise refused(before[0] if before else ast.Pass(), f"{kept.best} and {kept.key} are set in front of the loop")
    return left, values[kept.best], values[kept.key]


def _from_the_first(loop: ast.For, kept: Kept, start: ast.expr, limit: ast.expr | None, counter: str,
                    first: ast.expr) -> ast.expr:  # fmt: skip
    """The candidate whose cost, as the loop computes it, is the one to beat; it must precede the loop's first."""
    assert limit is not None
    cost = kept.cost
    if isinstance(cost, ast.Name):
        given = [dict(_pairs(s)).get(cost.id) for s in loop.body[:-1] if isinstance(s, ast.Assign)]
        cost = given[0] if len(given) == len(loop.body) - 1 == 1 and given[0] is not None else cost
    at_start = Values({counter: start}).visit(copy.deepcopy(cost))
    begins = start.value if isinstance(start, ast.Constant) else None
    follows = isinstance(begins, int) and ast.unparse(first) == str(begins + 1)
    if ast.dump(at_start) != ast.dump(limit) or not follows or not _is_name(kept.chosen, counter):
        raise refused(limit, "the cost to beat reads n_blocks and is not that of the candidate before the loop's first")
    return start


@dataclass(slots=True)
class _Sought:
    """Reductions inside one statement, each replaced by its name."""

    taken: set[str]
    found: list[Reduction] = field(default_factory=list)

    def replaced(self, node: ast.expr, line: int, name: str = "") -> ast.expr:
        """The expression with names for its reductions; `name` where the whole of it is one."""
        outer = self

        class Finder(ast.NodeTransformer):
            def visit_Call(self, call: ast.Call) -> ast.expr:
                made = outer._reduction(call, line, name if call is node else "")
                return made if made is not None else ast.NodeTransformer.generic_visit(self, call)  # type: ignore[return-value]

        return Finder().visit(node)  # type: ignore[no-any-return]

    def _reduction(self, call: ast.Call, line: int, name: str) -> ast.expr | None:
        made = call.args[0] if len(call.args) == 1 and not call.keywords else None
        known = isinstance(call.func, ast.Name) and call.func.id in REDUCERS
        if not known or made is None:
            return None
        assert isinstance(call.func, ast.Name)
        if _is_list(made):
            item = fresh_name("n", self.taken)
            value: ast.expr = ast.Name(item, ast.Load())
        elif isinstance(made, ast.GeneratorExp | ast.ListComp) and len(made.generators) == 1:
            generator = made.generators[0]
            if not _is_list(generator.iter) or generator.ifs or not isinstance(generator.target, ast.Name):
                return None
            item, value = generator.target.id, made.elt
        else:
            return None
        name = name or fresh_name(f"{call.func.id}_over_batch", self.taken)
        self.found.append(Reduction(name, call.func.id, item, ast.fix_missing_locations(value), line))
        return ast.copy_location(ast.Name(name, ast.Load()), call)


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == BLOCKS


def _take_reductions(found: CandidateSearch, steps: Sequence[ast.stmt], helpers: Mapping[str, ast.FunctionDef],
                     taken: set[str]) -> None:  # fmt: skip
    """Sort a candidate's statements into what the reductions need, the reductions, and the rest."""
    rest: list[ast.stmt] = []
    for node in steps:
        if not reads_list(node, helpers):
            rest.append(node)
            continue
        sought = _Sought(taken)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            node.value = sought.replaced(node.value, node.lineno, name)
            if not _is_name(node.value, name):
                rest.append(node)
        elif isinstance(node, ast.For):
            sought.found, rest = _of_loop(node, rest)
        if not sought.found or (reads_list(node, helpers) and not isinstance(node, ast.For)):
            raise refused(node, "n_blocks is read by something else than a sum, maximum or minimum over the batch")
        found.reductions += sought.found
    reduced = {r.name for r in found.reductions}
    needed = {n for r in found.reductions for n in names_in([r.value])} - {r.item for r in found.reductions}
    stores = [n for s in rest for n in stored_names([s])]
    while True:
        prefix = [s for s in rest if stored_names([s]) & needed]
        more = {n for s in prefix for n in names_in([s])} - needed
        if not more:
            break
        needed |= more
    where = ast.Pass(lineno=found.line)
    for name in sorted(needed):
        if name in reduced:
            raise refused(where, f"what is summed over the batch reads {name}, which is a sum itself")
        if stores.count(name) > 1:
            raise refused(where, f"what is summed over the batch reads {name}, which changes")
    found.prefix = prefix
    found.costs = [s for s in rest if s not in prefix]


def _of_loop(node: ast.For, rest: list[ast.stmt]) -> tuple[list[Reduction], list[ast.stmt]]:
    """Reductions of `for n in work.n_blocks: ctas += ...`, and the statements without their first values."""
    if not _is_list(node.iter) or not isinstance(node.target, ast.Name) or node.orelse:
        raise refused(node, "a loop over something else than n_blocks inside the one over candidates")
    item, made = node.target.id, []
    for step in node.body:
        name, how, value = "", "sum", None
        if isinstance(step, ast.AugAssign) and isinstance(step.op, ast.Add) and isinstance(step.target, ast.Name):
            name, value = step.target.id, step.value
        elif isinstance(step, ast.Assign) and isinstance(step.targets[0], ast.Name):
            name, call = step.targets[0].id, step.value
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) == 2:
                how, own = call.func.id, [a for a in call.args if not _is_name(a, name)]
                value = own[0] if len(own) == 1 and how == "max" else None
        if value is None or name in names_in([value]):
            raise refused(step, "a loop over n_blocks adds up whole numbers (`ctas += ...`) or keeps their maximum")
        made.append(Reduction(name, how, item, value, step.lineno))
    left = []
    begun: set[str] = set()
    for statement in rest:
        names = stored_names([statement]) & {r.name for r in made}
        if names and not (isinstance(statement, ast.Assign) and ast.unparse(statement.value) == "0"):
            raise refused(statement, "a sum or maximum over the batch begins with 0")
        begun |= names
        left += [] if names else [statement]
    if begun != {r.name for r in made}:
        raise refused(node, "a sum or maximum over the batch begins with 0, in front of its loop")
    return made, left


def _check_names(found: CandidateSearch) -> None:
    """Refuse names that the parts could not share once they run at different places."""
    reduced = [r.name for r in found.reductions]
    inside = stored_names([*found.prefix, *found.costs])
    outside = stored_names(found.before)
    for node, names in (
        (found.after, names_in(found.after) & (inside | {found.key, found.counter, *reduced})),
        (found.costs, inside & {*reduced, found.best, found.key, found.counter}),
        (found.costs, (names_in([*found.prefix, *found.costs]) & {found.best, found.key})),
        (found.before, outside & (inside | {*reduced, found.counter, *(r.item for r in found.reductions)})),
        (found.costs, {n for n in reduced if reduced.count(n) > 1}),
    ):
        if names:
            where = node[0] if node else ast.Pass(lineno=found.line)
            raise refused(where, f"{', '.join(sorted(names))} is used for two things around the loop over candidates")
