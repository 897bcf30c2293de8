"""Programs that are as deep or wide as the gate lets them be, and some that it must refuse."""

from __future__ import annotations

from evaluators.language.subset import MAX_SOURCE_BYTES

END = "    return 1, None, 0\n"


def _schedule(*lines: str) -> str:
    return "def schedule(shape, gpu):\n" + "".join(f"    {line}\n" for line in lines) + END


def _nested(head: str, tail: str, depth: int, inside: str = "shape.varlen") -> str:
    return f"x = {head * depth}{inside}{tail * depth}"


def _many(line: str) -> str:
    """A program with as many lines as the gate reads."""
    lines, size = [], 200
    while size < MAX_SOURCE_BYTES:
        lines.append(line.format(len(lines)))
        size += len(lines[-1]) + 5
    return _schedule(*lines)


def _chain(count: int) -> str:
    helpers = ["def f0(x):\n    return x + 1\n"]
    helpers += [f"def f{i}(x):\n    return f{i - 1}(x)\n" for i in range(1, count)]
    return "\n\n".join(helpers) + "\n\n" + _schedule(f"x = f{count - 1}(shape.batch)")


def _fan(count: int) -> str:
    """Each helper calls the one before it twice."""
    helpers = ["def f0(x):\n    return x + 1\n"]
    helpers += [f"def f{i}(x):\n    return f{i - 1}(x) + f{i - 1}(x + {i})\n" for i in range(1, count)]
    return "\n\n".join(helpers) + "\n\n" + _schedule(f"x = f{count - 1}(shape.batch) if shape.batch < 0 else 1")


def deep_programs() -> dict[str, str]:
    """Sources by name."""
    return {
        "chain of helpers": _chain(150),
        "long chain of helpers": _chain(1500),
        "helpers that call twice": _fan(40),
        "calls in calls": "def h(x):\n    return x\n\n\n" + _schedule(_nested("h(", ")", 45)),
        "not not not": _schedule(_nested("not ", "", 50)),
        "conditions in conditions": _schedule(_nested("1 if (", ") else 0", 40)),
        "choices in choices": _schedule(_nested("(1 if shape.batch > 3 else ", ")", 40)),
        "or in and": _schedule(_nested("(shape.batch and 3 or ", ")", 25)),
        "min in max": _schedule(_nested("max(1, min(shape.batch, ", "))", 20)),
        "ceil of shares": "import math\n\n\n" + _schedule(_nested("math.ceil(shape.batch / ", ")", 25, "3")),
        "floor of floors": _schedule(_nested("(shape.batch // (1 + ", "))", 18, "3")),
        "lists in lists": _schedule(_nested("[", "]", 50)),
        "lists from lists": _schedule(_nested("[i for i in ", "]", 12, "range(40)")),
        "loops in loops": _schedule(
            *("    " * i + f"for i{i} in range(40):" for i in range(12)), "    " * 12 + "x = i0 + i11",
        ),
        "ifs in ifs": _schedule(
            "x = 1", *("    " * i + f"if shape.batch > {i}:" for i in range(25)), "    " * 25 + "x = x + 1",
        ),
        "many lines": _many("x{0} = shape.batch * {0}"),
        "many updates": _schedule("x = 1", *(f"x += x * {i} % 7" for i in range(1200))),
        "many ifs": _schedule("x = 1", *(f"if shape.batch > {i}: x = x + {i}" for i in range(1200))),
        "a wide sum": _schedule("x = [" + ", ".join(["shape.batch"] * 4000) + "]", "y = sum(x)"),
        "a wide or": _schedule("x = " + " or ".join(["shape.batch > 3"] * 2500)),
        "a wide comparison": _schedule("x = 1 < " + " < ".join(["shape.batch"] * 3000)),
        "a large list": _schedule("x = [0] * 100000000", "y = x[shape.seqlen_k]"),
        "a large number": _schedule("x = 3", *("x = x * x" for _ in range(40))),
        "too deep": _schedule(_nested("(", ")", 150, "1 + " * 400 + "1")),
        "far too deep": _schedule("x = " + "-" * 30_000 + "1"),
        "too many brackets": _schedule("x = " + "[" * 5000),
        "open brackets": _schedule(_nested("f(", "", 100)),
    }  # fmt: skip
