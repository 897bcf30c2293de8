"""Writes a search that plays the queue of CTAs through as device code: one candidate per warp.

The program's text stays as it is: its helpers become lambdas that a whole warp runs, its loop over sizes is dealt out
among the warps, and the best of all warps is found in shared memory. Only what reads the batch or the queue is written
otherwise: `cta_queue` is the lambda of queue.cu, sums are added up by the lanes.
"""

from __future__ import annotations

import ast
import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from evaluators.language.cpp.emit_calls import CallExpressions
from evaluators.language.cpp.emit_expressions import POSTFIX, Text
from evaluators.language.cpp.emit_statements import RESERVED
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, MayBeZero, NotExpressible, prune, stored_names
from evaluators.language.cpp.translate import body_of
from evaluators.language.cpp.types import INT32_MAX, Kind, Type, list_of, whole
from evaluators.language.subset import QUEUE
from evolve.export.patch.candidates import Kept, kept_of
from evolve.export.patch.inlining import assigned, fresh_name, names_in
from evolve.export.patch.per_lane import KERNEL_WORDS, MAX_BATCH, OPERATOR, LaneRule, with_ceil_div, without_ceil_div

BLOCKS = "n_blocks"
ROWS = "queue_rows"
Node = TypeVar("Node", bound=ast.stmt)
MOST_SIZES = 18
"""Most sizes of a search: with the start, each has its memory."""

MOST_SMS = 160
LEAST_SMS = 32
MOST_TURN = 31
SHARED_BYTES = 44 * 1024
"""Static shared memory of a kernel is 48 KB at most; the rest is for what is reduced."""

SORT_BYTES = 1025 * 16
"""Of CUB's merge sort of 1,024 sequences, 16 bytes each."""

WARPS = 32
QUEUE_WORDS = (
    ROWS, "queue_freed", "queue_ends", "queue_costs", "queue_kept", "queue_best", "summed", "over_batch", "up_to",
    "num_batch", "warp", "other_kept", "other_best", "NumWarps",
)  # fmt: skip
ADVICE = "a loop over a tuple of sizes that keeps the cheapest, with cta_queue in a helper that returns the cost"
LISTS = re.compile(r"std::vector|\.(begin|end|size|empty|at)\(|for \([^;()]*:[^;]*\) \{")
"""Text of what device code has no counterpart for."""


@dataclass(frozen=True, slots=True)
class QueueLoop:
    """A search over a tuple of sizes, in which each cost may play the queue through.

    Attributes:
        before: statements in front of the start.
        start: statements that give the best size and the least cost their first values.
        counter: name of a size.
        steps: statements of the loop, without the comparison.
        kept: comparison that ends the loop.
        after: statements behind the loop.
        turn: half blocks that a CTA takes beside its blocks, the largest of all calls.
        longest_first: True if every call plays the longest sequences first, False if one keeps the batch's order.
        plays: calls of the queue for a size, as the text has them.
    """

    before: tuple[ast.stmt, ...]
    start: tuple[ast.stmt, ...]
    counter: str
    sizes: tuple[int, ...]
    steps: tuple[ast.stmt, ...]
    kept: Kept
    after: tuple[ast.stmt, ...]
    turn: int
    longest_first: bool
    plays: int
    line: int


def refused(node: ast.AST, reason: str) -> NotExpressible:
    """A refusal with the line that is the reason."""
    return NotExpressible(f"line {getattr(node, 'lineno', '?')}: {reason}", hint=ADVICE)


def find_queue(form: Form) -> QueueLoop | None:
    """The search of a program that plays the queue through; None if it does not.

    Raises:
        NotExpressible: the search has another form, with the line.
    """
    calls = list(_queue_calls(form.statements()))
    if not calls:
        return None
    turn = max(_turn_of(call) for call in calls)
    body = copy.deepcopy(form.body)
    playing = [i for i, s in enumerate(body) if _plays(s, form.helpers)]
    loop = body[playing[-1]]
    if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Name) or loop.orelse:
        raise refused(calls[0], f"{QUEUE} is played outside a loop over sizes")
    sizes, before = _sizes(loop, body[: playing[-1]])
    kept = kept_of(loop)
    stores = [bool(stored_names([s]) & {kept.best, kept.key}) for s in before]
    first = next((i for i, own in enumerate(stores) if own), None)
    if first is None or not all(stores[first:]):
        raise refused(loop, f"{kept.best} and {kept.key} are set right in front of the loop, and nothing else is")
    for node in (*before[:first], *body[playing[-1] + 1 :]):
        if _plays(node, form.helpers):
            raise refused(node, f"{QUEUE} is played outside the loop over sizes and the first cost")
    after = body[playing[-1] + 1 :]
    own = stored_names([loop]) - {kept.best, kept.key}
    if own & names_in(after):
        raise refused(after[0], f"{', '.join(sorted(own & names_in(after)))} is read behind the loop over sizes")
    return QueueLoop(
        tuple(before[:first]), tuple(before[first:]), loop.target.id, sizes, tuple(loop.body[:-1]), kept, tuple(after),
        turn, all(_longest_first(call) for call in calls),
        max(_plays(s, form.helpers) for s in (loop, ast.Module(before[first:], []))), loop.lineno,
    )  # fmt: skip


def _queue_calls(nodes: Iterator[ast.AST]) -> Iterator[ast.Call]:
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == QUEUE:
            yield node


def _plays(node: ast.AST, helpers: Mapping[str, ast.FunctionDef]) -> int:
    """Calls of the queue in a node and in the helpers that it calls."""
    called = [n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return called.count(QUEUE) + sum(_plays(helpers[name], helpers) for name in called if name in helpers)


def _longest_first(call: ast.Call) -> bool:
    order = call.args[-1]
    return isinstance(order, ast.Constant) and order.value is True


def _turn_of(call: ast.Call) -> int:
    """The turn of a call, whose other arguments must suit the device."""
    _, _, _, _, sms, turn, longest_first = call.args
    if not (isinstance(sms, ast.Attribute) and sms.attr == "num_sms"):
        raise refused(call, f"{QUEUE} of other SMs than gpu.num_sms")
    if not isinstance(longest_first, ast.Constant) or not isinstance(longest_first.value, bool):
        raise refused(call, f"{QUEUE} whose order is not a constant")
    if not isinstance(turn, ast.Constant) or not isinstance(turn.value, int) or not 0 <= turn.value <= MOST_TURN:
        raise refused(call, f"{QUEUE} whose turn is not a constant of 0 to {MOST_TURN}")
    return int(turn.value)


def _sizes(loop: ast.For, before: list[ast.stmt]) -> tuple[tuple[int, ...], list[ast.stmt]]:
    """Sizes of a loop, and the statements in front of it without theirs."""
    made: ast.expr = loop.iter
    if isinstance(made, ast.Name):
        name = made.id
        given = [s for s in before if name in stored_names([s])]
        if len(given) == 1 and isinstance(given[0], ast.Assign):
            made = given[0].value
            others = [s for s in before if s is not given[0]]
            if name not in names_in([*others, *loop.body]):
                before = others
    items = made.elts if isinstance(made, ast.Tuple | ast.List) else []
    values = [n.value for n in items if isinstance(n, ast.Constant) and type(n.value) is int]
    if not values or len(values) < len(items) or len(values) > MOST_SIZES:
        raise refused(loop, f"a search that plays the queue through loops over a tuple of 1 to {MOST_SIZES} integers")
    return tuple(values), before


class _DeviceTypes(Inference):
    """Types of a program that sums over a batch of the prepare kernel, or over a range."""

    def _sum(self, node: ast.Call, given: list[Type]) -> Type:
        made = node.args[0]
        if not isinstance(made, ast.ListComp | ast.GeneratorExp) or given[0].items[0].kind is not Kind.INT:
            return super()._sum(node, given)
        count = float(MAX_BATCH)
        if self.type(made.generators[0].iter).kind is Kind.RANGE:
            ends = self.type(made.generators[0].iter).items[0]
            count = max(0, ends.high - ends.low + 1)
        item = given[0].items[0]
        return whole(count * min(item.low, 0), count * max(item.high, 0))


class _DeviceExpressions(CallExpressions):
    """Expressions that a warp computes together."""

    def _batch(self, node: ast.expr) -> str:
        """Name of the list of sequences."""
        if isinstance(node, ast.Name | ast.Attribute) and self.type(node).items == (whole(1, MAX_BLOCKS),):
            return self.write(node).text
        raise refused(node, "a list that is not the batch's n_blocks")

    def _cta_queue(self, node: ast.Call, kind: str) -> Text:
        lengths, *numbers, sms, turn, longest_first = node.args
        parts = [*(self.as_type(n, "int64_t").text for n in numbers), self.write(sms).text, self.write(turn).text,
                 self._bool_of(longest_first).text]  # fmt: skip
        return Text(f"{QUEUE}({', '.join([self._batch(lengths), *parts])})", POSTFIX, kind)

    def _len(self, node: ast.Call, kind: str) -> Text:
        return Text(f"int(over_batch({self._batch(node.args[0])}, [](int) {{ return 1; }}))", POSTFIX, "int")

    def _sum(self, node: ast.Call, kind: str) -> Text:
        made = node.args[0]
        generators = made.generators if isinstance(made, ast.ListComp | ast.GeneratorExp) else []
        if len(generators) != 1 or generators[0].ifs or not isinstance(generators[0].target, ast.Name):
            raise refused(node, "a sum over something else than the batch or a range")
        assert isinstance(made, ast.ListComp | ast.GeneratorExp)
        (generator,) = generators
        assert isinstance(generator.target, ast.Name)
        value = f"[&](int {self._name(generator.target.id)}) {{ return {self.write(made.elt).text}; }}"
        source = generator.iter
        if not (isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.func.id == "range"):
            return Text(f"over_batch({self._batch(source)}, {value})", POSTFIX, "int64_t")
        first, end, step = self.range_parts(source)
        if step != 1:
            raise refused(node, "a sum over a range with steps")
        return Text(f"summed({first.text}, {end.text}, {value})", POSTFIX, "int64_t")

    def _binary(self, node: ast.BinOp) -> Text:
        found = super()._binary(node)
        if not isinstance(node.op, ast.Mult) or found.kind != "double":
            return found
        # A product of its own, which nvcc does not fuse with a sum: Python rounds both.
        one, other = self.write(node.left), self.write(node.right)
        return Text(f"__dmul_rn({one.text}, {other.text})", POSTFIX, "double")


MAX_BLOCKS = 2**20


def slots(queue: QueueLoop) -> int:
    """Half blocks of time that each candidate's memory holds."""
    own = min(WARPS, len(queue.sizes) + 1)
    return ((SHARED_BYTES - SORT_BYTES - 2 * MAX_BATCH - 1024) // own - 2 * MOST_SMS) // 32 * 32


def most_blocks(queue: QueueLoop) -> int:
    """Blocks of the longest sequence that the memory suffices for."""
    return (slots(queue) - 32 - queue.turn) // 2


def queue_rule(form: Form, inputs: Mapping[str, Type], fields: Mapping[str, str]) -> LaneRule | None:
    """A rule that plays the queue through as device code; None for a program without the queue.

    Raises:
        NotExpressible: the program has another form, with the line.
    """
    queue = find_queue(form)
    if queue is None:
        return None
    taken = names_in([*form.body, *form.helpers.values()])
    kept = queue.kept
    candidate, own = fresh_name("candidate", taken), fresh_name("kept", taken)
    worst = math.inf if OPERATOR[kept.better][0] == "<" else -math.inf
    count = len(queue.sizes) + 1
    inputs = {**inputs, BLOCKS: list_of(whole(1, MAX_BLOCKS))}
    fields = {**fields, BLOCKS: ROWS, **{f"kernel.{word}": word for word in (*KERNEL_WORDS, *QUEUE_WORDS)}}
    sizes = fresh_name("sizes", taken)
    listed = assigned(sizes, ast.List([ast.Constant(n) for n in queue.sizes], ast.Load()))
    head = [assigned(kept.best, ast.Constant(0)), assigned(own, ast.Constant(count)),
            assigned(kept.key, ast.Constant(worst))]  # fmt: skip
    loop = _dealt(queue, candidate, own, sizes)
    body = [*queue.before, listed, *head, loop, *queue.after]
    form = replace(
        form, body=_unfused(body), comments={k: list(v) for k, v in form.comments.items()},
        helpers={n: _unfused([copy.deepcopy(f)])[0] for n, f in form.helpers.items()},
    )  # fmt: skip
    prune(form)
    form = with_ceil_div(form, inputs, _DeviceTypes)
    types = _DeviceTypes(form, inputs)
    if types.divisors:
        where = types.divisors[0]
        text = ast.unparse(where)
        raise MayBeZero(f"line {where.lineno}: the divisor {text} may be 0", hint=f"max(1, {text})")
    best, key = (types.names[""][name] for name in (kept.best, kept.key))
    if best.kind is not Kind.INT or not best.within(INT32_MAX) or key.kind is not Kind.DOUBLE:
        raise refused(ast.Pass(lineno=queue.line), "the loop keeps an integer of 32 bits and a cost that is a float")
    written = body_of(form, types, fields, _DeviceExpressions)
    preamble, statements = without_ceil_div(written)
    place = len(queue.before) + 1 + len(head)
    turn = f"for (int {candidate} = 0; {candidate} < {count}; {candidate}++) {{"
    assert turn in statements[place]
    statements[place] = "    // A warp for each candidate.\n" + statements[place].replace(
        turn, f"for (int {candidate} = warp; {candidate} < {count}; {candidate} += NumWarps) {{"
    )
    statements.insert(place + 1, _best_of_all(kept, own, fields))
    text = "\n".join((*_device_queue(queue), *preamble, *statements))
    text = re.sub(r"std::vector<int> const (\w+) = cta_queue\(", r"auto const \1 = cta_queue(", text)
    text = re.sub(r"std::vector<int> const (\w+) = std::vector<int>\{([^}]*)\};", r"int const \1[] = {\2};", text)
    if LISTS.search(text):
        raise refused(ast.Pass(lineno=queue.line), "the search around the queue keeps or walks a list of its own")
    rings = min(WARPS, count)
    shared = (
        f"__shared__ uint16_t {ROWS}[NumWarps * kNumBatchPerWarp];",
        f"__shared__ uint8_t queue_freed[NumWarps < {rings} ? NumWarps : {rings}][{slots(queue)}];",
        f"__shared__ uint16_t queue_ends[NumWarps < {rings} ? NumWarps : {rings}][{MOST_SMS}];",
        "__shared__ double queue_costs[32];",
        "__shared__ int queue_kept[32], queue_best[32];",
    )
    stores = f"if (lane < kNumBatchPerWarp) {{ {ROWS}[kNumBatchPerWarp * (threadIdx.x / 32) + lane] = num_n_blocks; }}"
    limits = (f"num_sm >= {LEAST_SMS}", f"num_sm <= {MOST_SMS}", f"max_n_blocks <= {most_blocks(queue)}")
    return LaneRule(tuple(text.split("\n")), "\n".join(shared), (), written.notes, stores, limits, count)


def _dealt(queue: QueueLoop, candidate: str, own: str, sizes: str) -> ast.For:
    """The loop over the start and the sizes, by number."""
    kept = queue.kept
    number = ast.Name(candidate, ast.Load())
    index = ast.Subscript(ast.Name(sizes, ast.Load()), ast.BinOp(number, ast.Sub(), ast.Constant(1)), ast.Load())
    better = ast.If(
        ast.Compare(kept.cost, [kept.better()], [ast.Name(kept.key, ast.Load())]),
        [assigned(kept.best, kept.chosen), assigned(kept.key, kept.cost), assigned(own, number)], [],
    )  # fmt: skip
    choice = ast.If(
        ast.Compare(number, [ast.Eq()], [ast.Constant(0)]), [*queue.start, assigned(own, number)],
        [assigned(queue.counter, index), *queue.steps, better],
    )  # fmt: skip
    made = ast.For(
        ast.Name(candidate, ast.Store()),
        ast.Call(ast.Name("range", ast.Load()), [ast.Constant(0), ast.Constant(len(queue.sizes) + 1)], []),
        [choice], [],
    )  # fmt: skip
    for node in (made, choice, better):
        ast.copy_location(node, ast.Pass(lineno=0, col_offset=0))
    return ast.fix_missing_locations(made)


def _unfused(nodes: Sequence[Node]) -> list[Node]:
    """Statements with `x = x * y` for `x *= y`, so that every product is an expression."""

    class Apart(ast.NodeTransformer):
        def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
            if not isinstance(node.op, ast.Mult) or not isinstance(node.target, ast.Name):
                return node
            made = ast.BinOp(ast.Name(node.target.id, ast.Load()), ast.Mult(), node.value)
            return ast.fix_missing_locations(ast.copy_location(ast.Assign([node.target], made), node))

    return [Apart().visit(n) for n in nodes]


def _device_queue(queue: QueueLoop) -> list[str]:
    text = Path(__file__).with_name("queue.cu").read_text(encoding="utf-8").rstrip()
    return [f"    {line}" if line else "" for line in text.replace("@SLOTS@", str(slots(queue))).split("\n")]


def _best_of_all(kept: Kept, own: str, fields: Mapping[str, str]) -> str:
    """Lines that give every thread the best of all warps."""
    key, best, own = (f"{n}_value" if n in RESERVED or n in fields.values() else n for n in (kept.key, kept.best, own))
    sign = OPERATOR[kept.better]
    none = "HUGE_VAL" if sign[0] == "<" else "-HUGE_VAL"
    # The start loses to its equals as the program has it: with <=, the last of equals is kept.
    tie = ">" if "=" in sign else "<"
    return "\n".join(f"    {line}" for line in (
        "if (lane == 0) {",
        f"    queue_costs[warp] = {key};",
        f"    queue_kept[warp] = {own};",
        f"    queue_best[warp] = {best};",
        "}",
        "__syncthreads();",
        f"{key} = lane < NumWarps ? queue_costs[lane] : {none};",
        f"{own} = lane < NumWarps ? queue_kept[lane] : 0;",
        f"{best} = lane < NumWarps ? queue_best[lane] : 0;",
        "for (int i = 16; i > 0; i /= 2) {",
        f"    double const other = __shfl_xor_sync(0xffffffff, {key}, i);",
        f"    int const other_kept = __shfl_xor_sync(0xffffffff, {own}, i);",
        f"    int const other_best = __shfl_xor_sync(0xffffffff, {best}, i);",
        f"    if (other {sign[0]} {key} || (other == {key} && other_kept {tie} {own})) {{",
        f"        {key} = other;",
        f"        {own} = other_kept;",
        f"        {best} = other_best;",
        "    }",
        "}",
    ))  # fmt: skip
