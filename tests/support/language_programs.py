"""Small programs over the whole heuristic language, and questions to put to them."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.data.contract import SETTINGS, DecodeShape, Gpu
from evaluators.data.questions import Question
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, work_view

GPU = Gpu()

SHAPES = [
    DecodeShape(batch, keys, heads * 8, heads, live_seqlens=live)
    for batch, keys, heads in ((1, 64, 8), (2, 513, 1), (3, 3000, 4), (6, 8192, 2), (40, 16384, 8))
    for live in ((), tuple(1 + (keys - 1) * k // batch for k in range(1, batch + 1)))
]


def questions(shapes: Sequence[DecodeShape] = SHAPES, setting_name: str = "fa3_fwd-metadata-cold") -> list[Question]:
    """The questions about some shapes."""
    setting = SETTINGS[setting_name]
    found = []
    for shape in shapes:
        view = shape_view(shape, setting)
        stock = num_splits_heuristic(view, GPU.num_sms)
        found.append(Question(view, stock, (work_view(shape, setting, stock),)))
    return found


def returning(expression: str, *lines: str) -> str:
    """A program that answers with an expression after some lines."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"import math\nLIMIT = 7\n\n\ndef schedule(shape, gpu):\n{body}    return {expression}, None, 0\n"


def blocks(*lines: str) -> str:
    """A program whose `blocks_per_split` has these lines."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"def schedule(shape, gpu):\n    return 0, None, 0\n\n\ndef blocks_per_split(work, gpu):\n{body}"


PROGRAMS = [
    returning("1 if shape.batch < 4 else LIMIT"),
    returning("max(1, min(shape.num_n_blocks, 2 * gpu.num_sms // shape.batch, 128))"),
    returning("x[1] + y", "x = [1, 2]", "x += [3]", "y, z = x[0], len(x)", "x[0] = z", "x.append(y)"),
    returning("n", "n = 0", "for i in range(1, 100):", "    if i % 3 == 0:", "        continue", "    if i > 50:",
              "        break", "    n += 1", "else:", "    n = 200"),
    returning("sum(x for x in range(LIMIT) if 1 < x != 4) + sorted([3, 1, 2])[0]"),
    returning("sum([i * j for i in range(3) for j in range(i)])"),
    returning("int(math.ceil(float32(0.1) * 100)) + round(2.5) + abs(-3) + int(math.sqrt(16))"),
    returning("1 + (not shape.paged) + (shape.varlen or 5) + (0 and 5)"),
    returning("int(1 < shape.batch <= 6) + int(shape is None) + int(None is not shape)"),
    returning("1", "x = 1", "for i in range(3): x = x * -2 // 3"),
    returning("i", "for i in range(3): pass", "y = [i for i in range(9)]"),
    returning("1 + len([x for x in [shape.batch, 5, 9] if x > 4])", "x = 1 if shape.paged else 2.5"),
    returning("min(256, int(x * 100))", "x = float32(0.1) * shape.batch", "x = max(x, 0.5)"),
    returning("x", "x = max(shape.varlen, 1) if shape.batch > 2 else 3"),  # a bool on some shapes: no answer
    returning("x", "x = 0", "for i in range(shape.batch):", "    x = i"),
    returning("1", "x = 2", "for i in range(62): x = x * 2", "y = x + x"),  # beyond 64 bits, which Python minds not
    returning("int(9007199254740991 * shape.batch / (9007199254740992 - 1))"),
    returning("min(256, int(math.log2(shape.batch * 3) * math.exp(1.5)))"),
    returning("1", "x = max([i for i in range(shape.batch - 1)])"),  # an empty list for a batch of one
    returning("xs[-shape.batch] + xs[0]", "xs = [1, 2, 3]"),
    returning("int(float32(shape.seqlen_k * 3.4e38) > 1)"),
    returning("shape.batch // (shape.batch - 2) % 7"),
    returning("int(shape.seqlen_k % -7.5 + 9)"),
    returning("len(a) + len(b)", "a = [1]", "b = a if shape.batch else [2]", "b.append(3)"),
    blocks("n = work.n_blocks if work.batch else [1]", "n.append(9)", "return len(work.n_blocks)"),
    blocks("total = 0", "for n in work.n_blocks:", "    total += n * n", "return 1 + total % 97"),
    blocks("return sorted(work.n_blocks)[-1] + work.num_splits + min(n + 1 for n in work.n_blocks)"),
    returning("1 + sum(q) % 200",
              "q = cta_queue([shape.num_n_blocks] * shape.batch, shape.num_heads_kv, 3, 32, 132, 1, True)"),
    blocks("xs = []", "for n in work.n_blocks:", "    xs.append(n)", "best, least = 1, 0",
           "for size in (1, 2, 4, 9, 30):",
           "    end = cta_queue(xs, work.num_heads_kv, size, work.num_splits, gpu.num_sms, 2, False)",
           "    time = end[0] + sum([end[k] for k in range(86, gpu.num_sms)]) * 0.01",
           "    if size == 1 or time < least:", "        best, least = size, time", "return best"),
    blocks("q = cta_queue(work.n_blocks, 9007199254740992 * work.batch, 1, 9007199254740992, -3, -1, 1)",
           "return 1 + q[0] % 97 + len(q)"),
    # failures
    returning("cta_queue([1.5], 1, 1, 1, 1, 1, True)[0]"),
    returning("cta_queue([1], 1, shape.batch / 2, 1, 1, 1, True)[0]"),
    returning("1 / 0"),
    returning("undefined"),
    returning("x", "if shape.batch > 10:", "    x = 1"),
    returning("LIMIT", "if shape.batch > 100:", "    LIMIT = 1"),
    returning("shape.n_blocks"),
    returning("[1][5]"),
    returning("len(x for x in range(3))"),
    returning("1.5"),
    returning("True"),
    returning("300"),
    returning("-1"),
    returning("a", "a, b = 1, 2, 3"),
    returning("1", "x = 5", "x.append(1)"),
    returning("abs(1, 2)"),
    returning("float32([1])"),
    returning("ceil(2.5)"),
    "def schedule(shape, gpu):\n    return 1, None\n",
    "def schedule(shape, gpu):\n    return 1, 0, 0\n",
    "def schedule(shape, gpu):\n    pass\n",
    "def schedule(shape, gpu):\n    return 0, None, 0\n\n\ndef blocks_per_split(work, gpu):\n"
    "    blocks = work.n_blocks\n    blocks.append(9)\n    return len(work.n_blocks) + work.num_splits\n",
    "from math import floor\n\n\ndef half(x):\n    return floor(x / 2)\n\n\ndef schedule(shape, gpu):\n"
    "    return half(shape.batch + 3), True, half(6)\n",
]  # fmt: skip
