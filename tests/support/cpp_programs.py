"""Random programs of the heuristic language, for comparing their C++ with them."""

from __future__ import annotations

import random

FIELDS = ("total_mblocks", "num_n_blocks", "num_m_blocks", "max_splits", "seqlen_k", "batch", "num_heads_kv")
NAMES = ("a", "b", "c", "num_splits")


class Author:
    """Writes programs at random; most of what it writes has an exact C++."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def whole(self, names: tuple[str, ...], depth: int = 2) -> str:
        """An int expression."""
        rng = self.rng
        if depth == 0 or rng.random() < 0.2:
            leaves = [f"shape.{f}" for f in FIELDS] + ["gpu.num_sms", *names, *names]
            return rng.choice((*leaves, str(rng.randint(0, 200))))
        left, right = self.whole(names, depth - 1), self.whole(names, depth - 1)
        small, other = rng.randint(1, 40), rng.randint(-9, 9)
        real = f"min(1e6, max(-1e6, {self.floating(names, depth - 1)}))"
        return rng.choice((
            f"{left} + {right}", f"{left} - ({right})", f"({left}) % {small} * ({right})", f"({left}) // {small}",
            f"({left}) // max(1, {right})", f"({left}) % max(1, {right})", f"({left} - 77) // -{small}",
            f"({left} - 77) % -{small}", f"({left} - 77) // {small}", f"({left} - 77) % {small}",
            f"min({left}, {right})", f"max({left}, {right}, {small})", f"abs({left} - ({right}))",
            f"({left} if {self.truth(names, depth - 1)} else {right})", f"math.ceil(({left}) / {small})",
            f"math.floor(({left}) / {small})", f"math.ceil(({left}) / max(1, {right}))", f"round({real})",
            f"int({real})", f"math.ceil({real})", f"math.isqrt(abs({left}))", f"bool({left}) + ({right})", f"-({left})",
            f"len([{left}, {right}]) * {small}", f"sum([{left}, {right}])", f"sorted([{left}, {right}])[0]",
            f"max([i * {small} for i in range({small}) if i % 3 != 1])", f"[{left}, {right}, {small}][-1]",
            f"({left} or {right})", f"[{left}, {right}, {other}][({left}) % 3 - 3]", f"min([{left}, {small}])",
        ))  # fmt: skip

    def floating(self, names: tuple[str, ...], depth: int = 2) -> str:
        """A float expression."""
        rng = self.rng
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(("0.85", "1.5", "0.1", "2.0", "float32(0.8)", "float32(1.1)", "math.pi"))
        left, right = self.floating(names, depth - 1), self.floating(names, depth - 1)
        number, small = f"({self.whole(names, depth - 1)}) % 5003", rng.randint(1, 40)
        return rng.choice((
            f"{left} + {right}", f"{left} - ({right})", f"({left}) * ({right})", f"({number}) / {small}",
            f"float32({number})", f"float32(float32({number}) / {small})", f"float32(float32({number}) * float32(1.1))",
            f"float32({left})", f"({left}) / {small}", f"float32(({number}) / {small})", f"({left}) % {small}",
            f"float32(float32({left}) + float32({right}))", f"({left} - 3) // {small}", f"max({left}, {right})",
            f"math.sqrt(abs({left}))", f"float({number})", f"min({left}, {number})", f"-({left})",
            f"({left} if {self.truth(names, depth - 1)} else {right})", f"float32({left}) * ({number})",
            f"({left} if {self.truth(names, depth - 1)} else {number})",
        ))  # fmt: skip

    def truth(self, names: tuple[str, ...], depth: int = 1) -> str:
        """A condition."""
        rng = self.rng
        left, right = self.whole(names, depth), self.whole(names, depth)
        real = self.floating(names, depth)
        sign = rng.choice(("<", "<=", ">", ">=", "==", "!="))
        plain = f"({left}) {sign} ({right})"
        return rng.choice((
            plain, f"({left}) % 999 {sign} ({real})", f"({real}) {sign} ({left}) % 999", f"not {plain}",
            f"{plain} and shape.is_causal_or_local", f"{plain} or {left} < {rng.randint(0, 300)}",
            f"1 < {left} <= {right}", f"(shape.varlen or {plain}) and {left} > 3", f"({left}) % 2",
        ))  # fmt: skip

    def block(self, names: tuple[str, ...], depth: int, pad: str, *, loop: bool) -> list[str]:
        """Statements that keep every name below 1000."""
        rng = self.rng
        lines: list[str] = []
        for _ in range(rng.randint(1, 3)):
            kind = rng.randint(0, 7 if depth else 2)
            name = rng.choice(names)
            if kind <= 1:
                lines.append(f"{pad}{name} = ({self.whole(names)}) % 1000")
            elif kind == 2:
                sign, most = rng.choice((("+", 1000), ("-", 1000), ("*", 7)))
                lines += [f"{pad}{name} {sign}= {rng.randint(1, 9)}", f"{pad}{name} %= {most}"]
            elif kind == 3:
                lines.append(f"{pad}if {self.truth(names)}:")
                lines += self.block(names, depth - 1, pad + "    ", loop=loop)
                if rng.random() < 0.5:
                    lines += [f"{pad}else:", *self.block(names, depth - 1, pad + "    ", loop=loop)]
            elif kind == 4:
                counter = rng.choice(("i", "step", name))
                first, last, step = rng.choice(((0, 6, 1), (1, 9, 2), (5, 0, -1), (3, 3, 1)))
                lines.append(f"{pad}for {counter} in range({first}, {last}, {step}):")
                lines += self.block(names, depth - 1, pad + "    ", loop=True)
            elif kind == 5 and loop:
                lines.append(f"{pad}if {self.truth(names)}:")
                lines.append(f"{pad}    {rng.choice(('break', 'continue', 'return 7, None, 0'))}")
            elif kind == 6:
                # A list that grows, and a name that lives on behind the loop.
                lines += [
                    f"{pad}values = []",
                    f"{pad}for x in range({rng.randint(1, 9)}):",
                    f"{pad}    values.append(x * ({self.whole(names, 1)}) % 100)",
                    f"{pad}    {name} = values[x]",
                    f"{pad}{name} = ({name} + values[-1] + len(values) + x) % 1000",
                ]
            else:
                lines.append(f"{pad}if {self.truth(names)}:")
                lines.append(f"{pad}    return helper({self.whole(names)}, shape), None, 0")
        return lines

    def program(self) -> str:
        """A program whose `schedule` answers 1 to 256."""
        lines = ["import math", "", "LIMIT = 32", "", "", "def helper(x, shape):", "    # Keeps the answer in range."]
        lines.append(f"    return 1 + (x + shape.num_n_blocks * {self.rng.randint(0, 3)}) % 256")
        lines += ["", "", "def schedule(shape, gpu):"]
        lines += [f"    {name} = {self.whole(())}" for name in NAMES]
        lines += [f"    {name} = {name} % 1000" for name in NAMES]
        lines += self.block(NAMES, 2, "    ", loop=False)
        lines.append(f"    result = a + b * 3 + c + num_splits + {self.whole(NAMES)}")
        lines.append("    return 1 + result % min(256, LIMIT * 8), None, 0")
        return "\n".join(lines) + "\n"


def relation(rng: random.Random) -> str:
    """A body whose values hang together: guards, clamps, remainders, squares and loops over the same few names."""
    fields = ("shape.batch", "shape.num_heads_kv", "gpu.num_sms", "shape.num_n_blocks", "shape.block_n")
    lines = [f"{name} = {rng.choice(fields)}" for name in "abc"]
    names = ["a", "b", "c"]

    def value() -> str:
        x, y, z = (rng.choice(names) for _ in range(3))
        small = rng.randint(1, 9)
        remainder = f"{x} - {x} // {z} * {z}" if z in "abc" else f"{x} + {z}"
        return rng.choice((
            f"{x} - {y}", f"max({x}, {y}) - {x}", f"{x} - min({x}, {small})", remainder, f"({x} or {small})",
            f"({x} - {small}) * ({x} - {small})", f"{x} % {small}", f"{x} - {x} // {small} * {small}",
            f"({x} - {y} if {x} >= {y} else {y} - {x})", f"-({x}) // {small}", f"abs({x} - {y})", f"{x} // {small}",
            f"min({x}, {small})", f"max([{x}, {y}, {small}])",
            f"sum([i - {small} for i in range({small}, 12) if i > {small}])",
        ))  # fmt: skip

    def block(depth: int, pad: str) -> list[str]:
        made = []
        for _ in range(rng.randint(1, 3)):
            x, y = rng.choice(names), rng.choice(names)
            kind = rng.randint(0, 5 if depth else 1)
            if kind <= 1:
                made.append(f"{pad}{rng.choice('de')} = min(1000000, {value()})")
            elif kind == 2:
                sign = rng.choice(("<", "<=", ">", ">=", "==", "!="))
                test = rng.choice((f"{x} {sign} {y}", f"{x} {sign} 4 and {y} > 1", f"not {x} {sign} {y}",
                                   f"1 < {x} <= {y}", f"{x} {sign} {y} or {x} > 9"))  # fmt: skip
                made += [
                    f"{pad}if {test}:",
                    *block(depth - 1, pad + "    "),
                    f"{pad}else:",
                    *block(depth - 1, pad + "    "),
                ]
            elif kind == 3:
                bound = rng.choice((f"2, min(9, {x}) + 1", "5", f"{rng.randint(0, 3)}, {rng.randint(4, 9)}"))
                made += [f"{pad}for i in range({bound}):", f"{pad}    e = {x} - i", *block(depth - 1, pad + "    "),
                         f"{pad}    if d > {rng.randint(0, 9)}:", f"{pad}        {rng.choice(('break', 'continue'))}",
                         f"{pad}    d = min(d + i, 77)"]  # fmt: skip
            elif kind == 4:
                made.append(f"{pad}{rng.choice('abc')} = 1 + {value()} % 999")
            else:
                made += [f"{pad}d -= {rng.randint(1, 9)}", f"{pad}d = max(0, d)"]
        return made

    lines += ["d = 1", "e = 2"]
    names += ["d", "e"]
    lines += block(3, "")
    return "\n".join([*lines, "return 1 + abs(d + e) % 99, None, 0"])
