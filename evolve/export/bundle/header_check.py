"""A test of the changed heuristics.h for the bundle: pytest and a C++ compiler, no GPU."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.export.bundle.plan import Export
from evolve.export.evidence.evidence import Row
from evolve.export.patch.header import FUNCTION, HEADER
from evolve.export.proof.equivalence import row_of

UNIT_TEST = "test_num_splits.py"
PER_DECISION = 3
"""Calls that are kept for each pair of a decision before and after."""

TEXT = '''"""num_splits_heuristic decides as listed, with the patch applied.

Run it with pytest in the root of the repository; it needs a C++ compiler and no GPU.

{changed} of these calls are decided otherwise than before, {same} as before.
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
#include "@HEADER@"
int main() {{
    @CALLS@
}}
"""


def test_num_splits(tmp_path):
    calls = [
        'printf("%d\\\\n", {function}(' + ", ".join(str(a).lower() for a in given) + "));" for given, _ in CASES
    ]
    source = tmp_path / "main.cpp"
    source.write_text(MAIN.replace("@HEADER@", HEADER).replace("@CALLS@", "\\n    ".join(calls)))
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++17", "-o", str(tmp_path / "main"), str(source)], check=True)
    printed = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True).stdout
    decided = [int(line) for line in printed.split()]
    assert decided == [num_splits for _, num_splits in CASES]
'''


def unit_test(export: Export, num_sms: int) -> str:
    """The test, over a few calls of the workloads for every decision that the patch makes or keeps."""
    inputs = export.change.inputs
    chosen = _chosen(export.rows)
    flags = ("is_causal_or_local", "varlen", "paged")
    lines = []
    for row in chosen:
        values = zip(inputs, row_of(row.view, num_sms, inputs), strict=True)
        given = ", ".join(str(bool(v) if n in flags else v) for n, v in values)
        lines.append(f"    (({given}), {row.chosen.num_splits}),")
    changed = sum(r.chosen.num_splits != r.stock.num_splits for r in chosen)
    return TEXT.format(
        changed=changed, same=len(chosen) - changed, header=HEADER, function=FUNCTION, cases="\n".join(lines),
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
