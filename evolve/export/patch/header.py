"""The change to hopper/heuristics.h, and to its callers where a rule reads more than they pass."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.language.cpp.normalise import Form, NotExpressible
from evaluators.language.cpp.translate import CppBody, translate
from evaluators.language.cpp.types import BOOL
from evolve.export.patch.anchors import AnchorMissing, check_signature, find_calls, find_function
from evolve.export.patch.guard import with_nonzero
from evolve.export.patch.splice import kept_statements, spliced
from evolve.export.patch.tree import Tree
from evolve.export.targets.domain import INPUT, Domain
from evolve.export.targets.inputs import MAY_BE_ZERO, MORE_FIELDS, TILE_FIELDS, TILE_NAMES, input_types

HEADER = "hopper/heuristics.h"
FUNCTION = "num_splits_heuristic"
SIGNATURE = tuple(zip(("int", "int", "int", "int", "int", "bool", "int"), TILE_NAMES, strict=True))

CALLER_HAS = {
    "batch": "params.b", "seqlen_q": "params.seqlen_q", "seqlen_k": "params.seqlen_k", "num_heads_q": "params.h",
    "num_heads_kv": "params.h_k", "head_dim": "params.d", "qheads_per_kvhead": "params.h / params.h_k",
    "block_m": "kBlockM", "block_n": "kBlockN", "varlen": "params.num_splits_dynamic_ptr != nullptr",
    "paged": "params.page_table != nullptr",
}  # fmt: skip
"""Names in get_num_splits (hopper/flash_api.cpp) of the inputs that it does not pass on."""


@dataclass(frozen=True, slots=True)
class SourceChange:
    """New contents of a target's files and what a proof compiles of them.

    Attributes:
        edits: content by file name.
        function: the changed function as the patched file holds it.
        call: C++ expression of its answer over row[0], row[1], ...
        inputs: fields of the numbers of a row.
        keeps_stock: True if the target's own lines were kept where the program agrees with them.
    """

    edits: dict[str, bytes]
    function: str
    call: str
    inputs: tuple[str, ...]
    keeps_stock: bool
    notes: tuple[str, ...]


def translated(form: Form, fields: dict[str, str], names: Sequence[str], kept: dict[int, int], *,
               guard: bool) -> tuple[CppBody, str]:  # fmt: skip
    """The translation, and a line that excludes inputs of 0: all on request, else those that it divides by.

    Python never sees an empty batch; the kernel's caller may.
    """
    held = [n for n in names if n in MAY_BE_ZERO and n in form.fields()]
    unsafe = held if guard else [n for n in held if _with_zeros(form, fields, names, kept, (n,)) is None]
    body = None if guard else _with_zeros(form, fields, names, kept, [n for n in held if n not in unsafe])
    if body is not None and not unsafe:
        return body, ""
    if body is None:
        # With every input at least 1 a division by 0 is the program's own mistake, and refused.
        unsafe, body = held, translate(form, input_types(names), fields)
    empty = [fields[n] for n in unsafe if n != "size_one_kv_head"]
    return body, f"    if ({' || '.join(f'{n} <= 0' for n in empty)}) {{ return 1; }}  // nothing to attend to\n"


def _with_zeros(form: Form, fields: dict[str, str], names: Sequence[str], kept: dict[int, int],
                zero: Sequence[str]) -> CppBody | None:  # fmt: skip
    """The translation where these inputs may be 0; None if the program fails on them."""
    types = {**input_types(names), **input_types(zero, low=0)}
    try:
        body = translate(form, types, fields, guarded=True)
    except NotExpressible:
        return None
    return None if body.may_divide_by_zero - kept.keys() else body


def _behind_guard(form: Form, fields: dict[str, str], names: Sequence[str], kept: dict[int, int], *,
                  guard: bool) -> CppBody:  # fmt: skip
    """The translation of a form that decides under a condition; empty inputs that it cannot take fail the condition.

    Python never sees an empty batch; the kernel's caller may.
    """
    held = [n for n in names if n in MAY_BE_ZERO and n in form.fields() and n != "size_one_kv_head"]
    zeros = [n for n in names if n in MAY_BE_ZERO]
    if not guard:
        body = _with_zeros(form, fields, names, kept, zeros)
        if body is not None:
            return body
        # The fewest conditions that make it sound.
        alone = [n for n in held if _with_zeros(form, fields, names, kept, (n,)) is None]
        body = _with_zeros(with_nonzero(form, alone), fields, names, kept, zeros) if alone else None
        if body is not None:
            return body
    body = _with_zeros(with_nonzero(form, held), fields, names, kept, zeros) if held else None
    # With every input at least 1 a division by 0 is the program's own mistake, and refused.
    return body or translate(form, input_types(names), fields)


def change_header(tree: Tree, form: Form, stock: Form, *, keep_stock: bool, guard: bool = False,
                  domain: Domain) -> SourceChange:  # fmt: skip
    """Put a program's `schedule` into the target's files.

    Args:
        tree: the user's checkout.
        form: the program as one function.
        stock: FA3's own rule in the same form.
        keep_stock: True to keep the target's own lines where both agree.
        guard: True to exclude inputs of 0 first, which is always done if the program divides by them.
        domain: calls that are decided; its form reads whether a call is measured unless that is everywhere.

    Raises:
        UserError: an anchor is missing, or the target lacks an input.
    """
    source = tree.read(HEADER)
    if source is None:
        raise AnchorMissing(f"{tree.path} holds no {HEADER}", hint="is TREE the right repository? nothing was changed")
    function = find_function(source, FUNCTION, HEADER)
    check_signature(function, SIGNATURE, HEADER, FUNCTION)
    more = [n for n in MORE_FIELDS if n in form.fields()]
    names = [*TILE_FIELDS, *more]
    fields = {**dict(zip(TILE_FIELDS, TILE_NAMES, strict=True)), **{n: n for n in more}}
    if "gpu.l2_bytes" in form.fields():
        names.append("gpu.l2_bytes")
        fields["gpu.l2_bytes"] = "(50 * 1024 * 1024)"
    kept = kept_statements(function, form, stock) if keep_stock else {}
    if domain.limited:
        names.append(INPUT)
        fields[INPUT] = INPUT
        body, first = _behind_guard(form, fields, names, kept, guard=guard), ""
    else:
        body, first = translated(form, fields, names, kept, guard=guard)
    inner = spliced(source, function, kept, body) if kept else f"\n{body.text}\n".encode()
    new_body = b"\n" + first.encode() + inner.removeprefix(b"\n")
    types = input_types(names)
    passed = [*more, *([INPUT] if domain.limited else [])]
    extra = "".join(f", {'bool' if types[n] is BOOL else 'int'} {n}" for n in passed).encode()
    changed = (
        source[: function.parameters_end] + extra + source[function.parameters_end : function.body_start] + new_body
        + source[function.body_end :]
    )  # fmt: skip
    changed = with_includes(changed, source)
    edits = {HEADER: changed} if changed != source else {}
    if passed:
        edits |= change_callers(tree, [CALLER_HAS[n] for n in more], domain)
    found = find_function(changed, FUNCTION, HEADER)
    row = [n for n in names if n != "gpu.l2_bytes"]
    parts = [f"row[{i}] != 0" if types[n] is BOOL else f"int(row[{i}])" for i, n in enumerate(row)]
    return SourceChange(
        edits=edits,
        function=changed[found.start : found.end].decode(),
        call=f"{FUNCTION}({', '.join(parts)})",
        inputs=tuple(row),
        keeps_stock=bool(kept),
        notes=body.notes,
    )


INCLUDES = {
    "cmath": rb"std::(?:sqrt|ceil|floor|nearbyint|fabs|trunc|fmod|exp|log\w*|pow)\b", "cstdint": rb"\bint64_t\b",
    "vector": rb"std::vector\b", "map": rb"std::map\b", "array": rb"std::array\b",
    "algorithm": rb"std::sort\b", "cstring": rb"std::strcmp\b",
}  # fmt: skip
"""Headers that a translation may need; vLLM's fork no longer gets the first two through PyTorch's."""


def with_includes(changed: bytes, source: bytes) -> bytes:
    """The changed file with the headers that it needs, after the last `#include <...>`."""
    needed = [
        name for name, use in INCLUDES.items()
        if len(re.findall(use, changed)) > len(re.findall(use, source)) and f"<{name}>".encode() not in source
    ]  # fmt: skip
    places = [m.end() for m in re.finditer(rb"^#include <[^>]*>$", changed, re.MULTILINE)]
    if not needed or not places:
        return changed
    lines = "".join(f"\n#include <{name}>" for name in needed).encode()
    return changed[: places[-1]] + lines + changed[places[-1] :]


def gpu_name(source: bytes, where: str) -> str:
    """C++ of the current GPU's name in a caller; both functions keep what they ask CUDA for, by GPU.

    Raises:
        AnchorMissing: it has none of them.
    """
    for function in ("get_device_prop()", "at::cuda::getCurrentDeviceProperties()"):
        if function.encode() in source:
            return f"{function}->name"
    raise AnchorMissing(
        f"{where}: looked for get_device_prop() or at::cuda::getCurrentDeviceProperties(), found none",
        hint="nothing was changed",
    )


def change_callers(tree: Tree, arguments: Sequence[str], domain: Domain) -> dict[str, bytes]:
    """Pass more arguments at every call of num_splits_heuristic below hopper/, the domain's condition last.

    Raises:
        AnchorMissing: there is no call, or an unexpected one.
    """
    listed = subprocess.run(
        ["git", "-C", str(tree.path), "grep", "-l", "-F", f"{FUNCTION}(", tree.revision, "--", "hopper"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    names = [line.partition(":")[2] for line in listed]
    edits = {}
    for name in (n for n in names if n != HEADER and n.endswith((".cpp", ".cu", ".h"))):
        source = before = tree.read(name)
        assert source is not None and before is not None
        calls = find_calls(source, FUNCTION)
        passed = list(arguments)
        if calls and domain.limited:
            passed.append(domain.condition(domain.is_card(gpu_name(source, name)) if domain.by_card else ""))
        for call in reversed(calls):
            if len(call.arguments) != len(SIGNATURE):
                raise AnchorMissing(
                    f"{name}: expected a call of {FUNCTION} with {len(SIGNATURE)} arguments, found "
                    f"{len(call.arguments)}",
                    hint="nothing was changed",
                )
            wanted = sorted({w for a in passed for w in re.findall(r"\b(?:params\.\w+|k[A-Z]\w+)", a)})
            missing = [w for w in wanted if not re.search(rb"\b%s\b" % re.escape(w).encode(), source)]
            if missing:
                raise AnchorMissing(
                    f"{name}: looked for {missing[0]} to pass on, not found", hint="nothing was changed"
                )
            source = source[: call.end] + "".join(f", {a}" for a in passed).encode() + source[call.end :]
        if calls:
            edits[name] = with_includes(source, before)
    if not edits:
        raise AnchorMissing(f"looked for a call of {FUNCTION} in hopper/*.cpp, found none", hint="nothing was changed")
    return edits
