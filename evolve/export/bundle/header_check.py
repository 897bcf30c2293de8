"""A test of the changed heuristics.h for the bundle: pytest and a C++ compiler, no GPU."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.export.bundle.plan import Export
from evolve.export.evidence.evidence import Row
from evolve.export.patch.header import FUNCTION, HEADER
from evolve.export.proof.equivalence import row_of
from evolve.export.targets.domain import INPUT

UNIT_TEST = "test_num_splits.py"
PER_DECISION = 3
"""Calls that are kept for each pair of a decision before and after."""

TEXT = '''"""num_splits_heuristic decides as listed, with the patch applied.

Run it with pytest in the root of the repository; it needs a C++ compiler and no GPU.

{changed} of these calls are decided otherwise than before, {same} as before{outside}.
"""

import os
import subprocess

HEADER = os.path.join(os.getcwd(), "{header}")
CASES = [
    # ({names}), num_splits
{cases}
]
MAIN = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <tuple>
#include <vector>
@FUNCTION@
int main() {{
    @CALLS@
}}
"""


def function():
    """The function alone: the rest of the header may need CUDA's."""
    with open(HEADER, encoding="utf-8") as file:
        text = file.read()
    start = text.index("inline int {function}(")
    depth, end = 0, text.index("{{", start)
    while True:
        depth += {{"{{": 1, "}}": -1}}.get(text[end], 0)
        end += 1
        if not depth:
            return text[start:end]


def test_num_splits(tmp_path):
    calls = [
        'printf("%d\\\\n", {function}(' + ", ".join(str(a).lower() for a in given) + "));" for given, _ in CASES
    ]
    source = tmp_path / "main.cpp"
    source.write_text(MAIN.replace("@FUNCTION@", function()).replace("@CALLS@", "\\n    ".join(calls)))
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++17", "-o", str(tmp_path / "main"), str(source)], check=True)
    printed = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True).stdout
    decided = [int(line) for line in printed.split()]
    assert decided == [num_splits for _, num_splits in CASES]
'''


def unit_test(export: Export, num_sms: int) -> str:
    """The test, over a few calls of the workloads for every decision that the patch makes or keeps."""
    inputs = export.change.inputs
    chosen = [r for r in _chosen(export.rows) if export.domain.in_mode(r.view.varlen)]
    flags = ("is_causal_or_local", "varlen", "paged", INPUT)
    lines = []
    limited = INPUT in inputs
    for row, measured in [(r, m) for r in chosen for m in ((True, False) if limited else (True,))]:
        values = zip(inputs, row_of(row.view, num_sms, inputs, measured=measured), strict=True)
        given = ", ".join(str(bool(v) if n in flags else v) for n, v in values)
        lines.append(f"    (({given}), {(row.chosen if measured else row.stock).num_splits}),")
    changed = sum(r.chosen.num_splits != r.stock.num_splits for r in chosen)
    outside = f"; {len(chosen)} more are not of a kind that was measured, and decided as before"
    return TEXT.format(
        changed=changed, same=len(chosen) - changed, outside=outside if limited else "", header=HEADER,
        function=FUNCTION, cases="\n".join(lines),
        names=", ".join(n.removeprefix("gpu.") for n in inputs),
    )  # fmt: skip


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """A few rows, evenly spaced, for each pair of num_splits before and after."""
    pairs: dict[tuple[int, int], dict[object, Row]] = {}
    for row in rows:
        pairs.setdefault((row.stock.num_splits, row.chosen.num_splits), {}).setdefault(row.view, row)
    found = []
    for _, held in sorted(pairs.items()):
        listed = list(held.values())
        count = min(PER_DECISION, len(listed))
        found += [listed[i * (len(listed) - 1) // max(1, count - 1)] for i in range(count)]
    return found
