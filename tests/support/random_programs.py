"""Random programs of the heuristic language, for comparing two ways to run them."""

from __future__ import annotations

import random

SHAPE = ("batch", "seqlen_k", "num_heads_kv", "num_n_blocks", "total_mblocks", "varlen", "is_causal_or_local")
WORK = ("batch", "num_heads_kv", "num_splits", "total_n_blocks", "max_n_blocks", "min_n_blocks")
FUNCTIONS = ("abs({})", "int({})", "float({})", "bool({})", "round({})", "float32({})", "math.ceil({})",
             "math.floor({})", "math.sqrt(abs({}))", "math.log2(max(1, {}))", "math.log(1 + abs({}))",
             "math.exp2(min(9, {}))", "math.exp(min(3, {}))", "math.isqrt(abs(int({})))")  # fmt: skip


class Writer:
    """Writes one function body."""

    def __init__(self, rng: random.Random, view: str, fields: tuple[str, ...]) -> None:
        self.rng, self.view, self.fields = rng, view, fields
        self.names: list[str] = []
        self.lists: list[str] = []
        self.lines: list[str] = []

    def number(self, depth: int) -> str:
        rng = self.rng
        kinds = ["field", "literal", "name", "name"]
        if depth > 0:
            kinds += ["op", "op", "op", "function", "extreme", "choice", "test", "list", "helper"]
        kind = rng.choice(kinds)
        if kind == "name" and self.names:
            return rng.choice(self.names)
        if kind in ("field", "name"):
            return f"{self.view}.{rng.choice(self.fields)}" if rng.random() < 0.9 else "gpu.num_sms"
        if kind == "literal":
            return str(rng.choice([0, 1, 2, 3, 4, 7, 32, 132, 0.5, 1.1, 0.8, 2.0, True]))
        if kind == "function":
            return rng.choice(FUNCTIONS).format(self.number(depth - 1))
        if kind == "extreme":
            many = ", ".join(self.number(depth - 1) for _ in range(rng.choice((2, 2, 3))))
            return f"{rng.choice(('min', 'max'))}({many})"
        if kind == "choice":
            return f"({self.number(depth - 1)} if {self.test(depth - 1)} else {self.number(depth - 1)})"
        if kind == "test":
            return f"({self.test(depth - 1)})"
        if kind == "list" and self.lists:
            name = rng.choice(self.lists)
            return rng.choice((f"len({name})", f"sum({name})", f"max({name})", f"{name}[0]", f"{name}[-1]",
                               f"{name}[{self.number(0)} % len({name})]", f"sorted({name})[0]"))  # fmt: skip
        if kind == "list":
            bound = f"1, 2 + min(9, int({self.number(0)}))" if rng.random() < 0.9 else f"min(9, {self.number(0)})"
            test = f" if i % 2 == {rng.choice((0, 1))}" if rng.random() < 0.3 else ""
            source = "work.n_blocks" if self.view == "work" and rng.random() < 0.6 else f"range({bound})"
            what = rng.choice(("sum", "max", "min"))
            return f"{what}({rng.choice(('i', 'i * 2', 'i + ' + self.number(0)))} for i in {source}{test})"
        if kind == "helper":
            return f"helper({self.number(depth - 1)}, {self.number(0)})"
        op = rng.choice(("+", "-", "*", "/", "//", "%"))
        if op in ("/", "//", "%") and rng.random() < 0.95:
            return f"({self.number(depth - 1)} {op} max({rng.choice((1, 2, 0.5))}, {self.number(depth - 1)}))"
        sign = rng.choice(("", "", "", "-"))
        return f"{sign}({self.number(depth - 1)} {op} {self.number(depth - 1)})"

    def test(self, depth: int) -> str:
        rng = self.rng
        kind = rng.choice(("compare", "compare", "compare", "both", "not", "chain", "number"))
        if kind == "compare" or depth <= 0:
            op = rng.choice(("<", "<=", ">", ">=", "==", "!="))
            return f"{self.number(depth - 1)} {op} {self.number(depth - 1)}"
        if kind == "both":
            return f"{self.test(depth - 1)} {rng.choice(('and', 'or'))} {self.test(depth - 1)}"
        if kind == "not":
            return f"not ({self.test(depth - 1)})"
        if kind == "chain":
            return f"{self.number(0)} < {self.number(depth - 1)} <= {self.number(0)}"
        return self.number(depth - 1)

    def block(self, indent: int, depth: int, *, loop: bool) -> None:
        names, lists = list(self.names), list(self.lists)
        for _ in range(self.rng.randint(1, 3)):
            self.statement(indent, depth, loop=loop)
        if self.rng.random() < 0.95:
            # Names of a branch have no value where it was not taken.
            self.names, self.lists = names, lists

    def statement(self, indent: int, depth: int, *, loop: bool) -> None:
        rng, pad = self.rng, "    " * indent
        kinds = ["assign", "assign", "assign", "update", "append", "newlist"]
        if depth > 0:
            kinds += ["if", "if", "for", "return"]
        if loop:
            kinds += ["break", "continue"]
        kind = rng.choice(kinds)
        if kind == "update" and self.names:
            self.lines.append(
                f"{pad}{rng.choice(self.names)} {rng.choice(('+=', '-=', '*=', '%='))} 1 + abs({self.number(1)})"
            )
        elif kind == "append" and self.lists:
            self.lines.append(f"{pad}{rng.choice(self.lists)}.append({self.number(2)})")
        elif kind == "newlist":
            name = f"xs{len(self.lists)}"
            how = rng.choice(
                (
                    "[1, 2, 3]",
                    f"[{self.number(1)}]",
                    f"[i * {self.number(0)} for i in range(4)]",
                    "[0] * 5",
                    self.queue(),
                )
            )
            self.lines.append(f"{pad}{name} = {how}")
            self.lists.append(name)
        elif kind == "if":
            self.lines.append(f"{pad}if {self.test(2)}:")
            self.block(indent + 1, depth - 1, loop=loop)
            if rng.random() < 0.5:
                self.lines.append(f"{pad}else:")
                self.block(indent + 1, depth - 1, loop=loop)
        elif kind == "for":
            name = f"i{len(self.names)}"
            if self.view == "work" and rng.random() < 0.3:
                source = "work.n_blocks"
            elif self.lists and rng.random() < 0.3:
                source = f"sorted({rng.choice(self.lists)})"
            else:
                few = f"range(min(12, int({self.number(1)})))"
                source = rng.choice((few, "range(3)", f"range(int({self.number(0)}), 4)", "range(9, 0, -2)"))
            self.lines.append(f"{pad}for {name} in {source}:")
            self.names.append(name)
            self.block(indent + 1, depth - 1, loop=True)
            if rng.random() < 0.2:
                self.lines.append(f"{pad}else:")
                self.block(indent + 1, depth - 1, loop=loop)
        elif kind == "return":
            self.lines.append(f"{pad}if {self.test(1)}:")
            self.lines.append(f"{pad}    return {self.answer()}")
        elif kind in ("break", "continue"):
            self.lines.append(f"{pad}if {self.test(1)}:")
            self.lines.append(f"{pad}    {kind}")
        else:
            name = f"x{len(self.names)}" if rng.random() < 0.7 or not self.names else rng.choice(self.names)
            self.lines.append(f"{pad}{name} = {self.number(3)}")
            if name not in self.names:
                self.names.append(name)

    def queue(self) -> str:
        """A list of finish times; now and then with arguments that are none."""
        lengths = "work.n_blocks" if self.view == "work" else f"[{self.view}.num_n_blocks] * {self.view}.batch"
        lengths = self.rng.choice((lengths, lengths, *self.lists))
        numbers = ", ".join(self.number(1) if self.rng.random() < 0.1 else f"int({self.number(0)})" for _ in range(3))
        return f"cta_queue({lengths}, {numbers}, gpu.num_sms, {self.rng.choice((0, 1, 2))}, {self.test(1)})"

    def answer(self) -> str:
        whole = f"max(1, min(256, int({self.number(2)})))"
        if self.view == "work":
            return whole
        pack = self.rng.choice(
            ("None", "None", "True", f"({self.test(1)}) == True", f"None if {self.test(1)} else True")
        )
        return f"{whole}, {pack}, {self.rng.choice(('0', '0', 'min(131, abs(int(' + self.number(1) + ')))'))}"


def random_program(seed: int) -> str:
    """A program; many fail on some shape, as candidates do."""
    rng = random.Random(seed)
    text = ["import math", "", "LIMIT = 7", "", "", "def helper(a, b):"]
    text += rng.choice((["    return a if a > b else b"], ["    if b == 0:", "        return 1", "    return a / b"],
                        ["    return a * LIMIT - b"]))  # fmt: skip
    for name, view, fields in (("schedule", "shape", SHAPE), ("blocks_per_split", "work", WORK)):
        writer = Writer(rng, view, fields)
        for _ in range(rng.randint(1, 5)):
            writer.statement(1, 2, loop=False)
        text += ["", "", f"def {name}({view}, gpu):", *writer.lines, f"    return {writer.answer()}"]
    return "\n".join(text) + "\n"
