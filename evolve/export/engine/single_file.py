"""Kernel and program as one importable file, for an engine of one's own."""

from __future__ import annotations

import ast
import textwrap

from evaluators.language.gate import Program, parse_tree
from evolve.assets import asset

KERNEL = "kernels/triton_decode"
PARTS = ("schedule.py", "device.py", "launch.py", "by_length.py", "rule.py")
"""Modules of the kernel in the order in which they build on each other; the reference is for tests."""

HEAD = '''"""Decode attention in Triton, and a schedule for it that was searched on recorded latencies.

    from triton_decode_evolved import Call, Workspace, prepare, schedule_for

    call = Call(batch=8, seqlen_k=4096, num_heads_q=8, num_heads_kv=1, page_size=16)
    schedule = schedule_for(call)              # None: the stock kernel is faster, or the call was never measured
    launch = prepare(q, k, v, seqlens=seqlens, page_table=page_table, schedule=schedule)
    launch.run()                               # as often as wanted, also within a CUDA graph

`schedule_for` needs neither torch tensors nor a GPU. Where lengths are known on the host, pass them as its second
argument; where they are on the device alone, `RULE.blocks_by_length`, `table_of` and `look_up` follow them within a
CUDA graph. Give each stream a `Workspace` of its own. Needs torch 2.10 and Triton 3.6.

Made by evosplit {version} from a program with sha256 {sha256}.
{measured}
"""
'''

TAIL = '''

def _program():
    """The searched program, as it was judged."""
    import struct

    def float32(x):
        return struct.unpack("<f", struct.pack("<f", x))[0]

@PROGRAM@
    return Rule(schedule@BLOCKS@)


RULE = _program()
schedule_for = RULE.schedule_for
'''


def _imports_and_rest(text: str) -> tuple[set[str], str]:
    """Imports of a module but for those of its siblings, and what follows them, without its docstring."""
    tree = ast.parse(text)
    imports, rest, lines = set(), [], text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= {ast.unparse(ast.ImportFrom(node.module, [a], 0)) for a in node.names} if isinstance(
                node, ast.ImportFrom
            ) else {ast.unparse(node)}
            continue
        if node is tree.body[0] and isinstance(node, ast.Expr):
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        rest.append((first, node.end_lineno or first))
    start = rest[0][0] - 1
    return imports, "\n".join(lines[start:]).strip("\n")


def program_source(program: Program) -> str:
    """A program's imports, constants and functions, without its docstring."""
    lines = program.source.splitlines()
    kept = []
    for node in parse_tree(program.source).body:
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            kept.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return "\n\n".join(kept)


def single_file(program: Program, *, sha256: str, version: str, measured: str) -> str:
    """Text of the module.

    Args:
        program: what decides.
        sha256: of its source.
        version: of evosplit.
        measured: what was measured of it, in lines that fit the docstring.
    """
    imports: set[str] = set()
    parts = []
    for name in PARTS:
        found, rest = _imports_and_rest((asset(KERNEL) / name).read_text(encoding="utf-8"))
        imports |= found
        parts.append(f"# {'-' * 20} {name.removesuffix('.py')}\n\n{rest}")
    blocks = ", blocks_per_split" if program.uses_blocks_per_split else ""
    own = textwrap.indent(program_source(program), "    ")
    tail = TAIL.replace("@BLOCKS@", blocks).replace("@PROGRAM@", own)
    head = HEAD.format(version=version, sha256=sha256, measured=measured)
    body = "\n\n\n".join(parts)
    return f"{head}\nfrom __future__ import annotations\n\n" + "\n".join(sorted(imports)) + f"\n\n{body}\n{tail}"
