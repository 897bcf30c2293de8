"""Kernel and program as one importable file, for any engine."""

from __future__ import annotations

import ast
import inspect
import textwrap

from evaluators.language.gate import Program, parse_tree
from evaluators.sandbox import cta_queue
from evolve.assets import asset

KERNEL = "kernels/triton_decode"
PARTS = ("schedule.py", "device.py", "launch.py", "by_length.py", "rule.py")
"""Modules of the kernel in the order in which they build on each other; the reference is for tests."""

HEAD = '''"""Decode attention in Triton, and a schedule for it that was searched on recorded latencies.

    from triton_decode_evolved import Call, Workspace, prepare, schedule_for

    gpu = torch.cuda.get_device_name()
    call = Call(batch=8, seqlen_k=4096, num_heads_q=8, num_heads_kv=1, page_size=16, gpu=gpu)
    schedule = schedule_for(call)              # None: the stock kernel is faster, or call or GPU were never measured
    launch = prepare(q, k, v, seqlens=seqlens, page_table=page_table, schedule=schedule)
    launch.run()                               # as often as wanted, also within a CUDA graph

`schedule_for` needs neither torch tensors nor a GPU. Where lengths are known on the host, pass them as its second
argument; a rule that chooses the schedule itself by lengths raises ValueError without. Where they are on the device
alone, `RULE.blocks_by_length`, `answers_of`, `table_of` and `look_up` follow them within a CUDA graph. Give each
stream a `Workspace` of its own. Needs torch 2.10 and Triton 3.6.

The rule decides on the GPU that it was measured on, by its name ({gpus}): others of as many
multiprocessors have another memory. `dataclasses.replace(RULE, gpus=()).schedule_for` decides on any.

Made by evosplit {version} from a program with sha256 {sha256}.
{measured}
"""
'''

TAIL = '''
@QUEUE@
def _program():
    """The searched program, as it was judged."""
    import struct

    def float32(x):
        return struct.unpack("<f", struct.pack("<f", x))[0]

@PROGRAM@
    return Rule(schedule@REST@, gpus=@GPUS@)


RULE = _program()
schedule_for = RULE.schedule_for
'''


def _imports_and_rest(text: str) -> tuple[dict[str, set[str]], str]:
    """Imports of a module but for those of its siblings, and what follows them, without its docstring.

    Imports are names by module; an empty name means the module itself.
    """
    tree, imports = ast.parse(text), dict[str, set[str]]()
    first = 0
    for node in tree.body:
        if isinstance(node, ast.Import):
            imports.setdefault(ast.unparse(node), set())
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module and node.module != "__future__":
                imports.setdefault(node.module, set()).update(alias.name for alias in node.names)
        elif not (isinstance(node, ast.Expr) and node is tree.body[0]):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            break
    return imports, "\n".join(text.splitlines()[first - 1 :]).strip("\n")


def _import_lines(imports: dict[str, set[str]]) -> str:
    """Import statements, those of libraries behind those of Python itself."""
    lines = [f"from {m} import {', '.join(sorted(names))}" if names else m for m, names in imports.items()]
    groups: dict[bool, list[str]] = {False: [], True: []}
    for line in lines:
        groups[line.split()[1].split(".")[0] in ("torch", "triton")].append(line)
    return "\n\n".join("\n".join(sorted(g, key=lambda line: (line.startswith("from"), line))) for g in groups.values())


def program_source(program: Program) -> str:
    """A program's imports, constants and functions, without its docstring."""
    lines = program.source.splitlines()
    kept = []
    for node in parse_tree(program.source).body:
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            kept.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return "\n\n".join(kept)


def queue_source() -> str:
    """`cta_queue` in plain Python, made by a function so that its names do not collide with the program's."""
    names = ("MOST_ROWS", "MOST_BLOCKS", "MOST_TILES", "MOST_PARTS", "MOST_SMS", "MOST_TURN", "LATEST")
    constants = [f"{name} = {getattr(cta_queue, name)}" for name in names]
    functions = [inspect.getsource(f) for f in (cta_queue.as_whole, cta_queue.clamped, cta_queue.cta_queue)]
    body = textwrap.indent("\n".join(["import heapq", "", *constants, "", *functions, "return cta_queue"]), "    ")
    return f"\n\ndef _queue():\n{body}\n\n\ncta_queue = _queue()\n"


def single_file(program: Program, *, sha256: str, version: str, measured: str, gpus: tuple[str, ...]) -> str:
    """Text of the module; `measured` are lines that fit its docstring, `gpus` names as CUDA gives them."""
    imports: dict[str, set[str]] = {}
    parts = []
    for name in PARTS:
        found, rest = _imports_and_rest((asset(KERNEL) / name).read_text(encoding="utf-8"))
        for module, names in found.items():
            imports.setdefault(module, set()).update(names)
        parts.append(f"# {'-' * 20} {name.removesuffix('.py')}\n\n{rest}")
    rest = ", blocks_per_split" if program.uses_blocks_per_split else ""
    rest += ", reads_lengths=True" if program.uses_live_lengths else ""
    queue = queue_source() if program.uses_queue else ""
    own = textwrap.indent(program_source(program), "    ")
    tail = TAIL.replace("@REST@", rest).replace("@QUEUE@", queue).replace("@GPUS@", repr(gpus))
    tail = tail.replace("@PROGRAM@", own)
    head = HEAD.format(version=version, sha256=sha256, measured=measured, gpus=", ".join(gpus))
    body = "\n\n\n".join(parts)
    return f"{head}\nfrom __future__ import annotations\n\n" + _import_lines(imports) + f"\n\n{body}\n{tail}"
