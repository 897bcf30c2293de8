"""num_splits_heuristic decides as listed, with the patch applied.

Run it with pytest in the root of the repository; it needs a C++ compiler and no GPU.

25 of these calls are decided otherwise than before, 34 as before; 59 more are not of a kind that was measured, and decided as before.
"""

import os
import subprocess

HEADER = os.path.join(os.getcwd(), "hopper/heuristics.h")
CASES = [
    # (total_mblocks, num_sms, num_n_blocks, num_m_blocks, size_one_kv_head, is_causal_or_local, max_splits, batch, num_heads_q, num_heads_kv, varlen, measured), num_splits
    ((64, 132, 4, 1, 360448, False, 128, 64, 8, 1, False, True), 1),
    ((64, 132, 4, 1, 360448, False, 128, 64, 8, 1, False, False), 1),
    ((160, 132, 12, 1, 1048576, False, 128, 20, 64, 8, False, True), 2),
    ((160, 132, 12, 1, 1048576, False, 128, 20, 64, 8, False, False), 1),
    ((320, 132, 47, 1, 4194304, False, 128, 40, 64, 8, False, True), 2),
    ((320, 132, 47, 1, 4194304, False, 128, 40, 64, 8, False, False), 1),
    ((192, 132, 94, 1, 8388608, False, 128, 48, 32, 4, False, True), 2),
    ((192, 132, 94, 1, 8388608, False, 128, 48, 32, 4, False, False), 1),
    ((1, 132, 3, 1, 196608, False, 128, 1, 64, 1, False, True), 3),
    ((1, 132, 3, 1, 196608, False, 128, 1, 64, 1, False, False), 1),
    ((6, 132, 3, 1, 262656, False, 128, 3, 16, 2, False, True), 3),
    ((6, 132, 3, 1, 262656, False, 128, 3, 16, 2, False, False), 1),
    ((40, 132, 4, 1, 360448, False, 128, 40, 8, 1, False, True), 3),
    ((40, 132, 4, 1, 360448, False, 128, 40, 8, 1, False, False), 1),
    ((8, 132, 4, 1, 327680, False, 128, 1, 64, 8, False, True), 4),
    ((8, 132, 4, 1, 327680, False, 128, 1, 64, 8, False, False), 1),
    ((10, 132, 4, 1, 360448, False, 128, 5, 16, 2, False, True), 4),
    ((10, 132, 4, 1, 360448, False, 128, 5, 16, 2, False, False), 1),
    ((32, 132, 4, 1, 360448, False, 128, 32, 8, 1, False, True), 4),
    ((32, 132, 4, 1, 360448, False, 128, 32, 8, 1, False, False), 1),
    ((64, 132, 6, 1, 524288, False, 128, 8, 64, 8, False, True), 2),
    ((64, 132, 6, 1, 524288, False, 128, 8, 64, 8, False, False), 2),
    ((64, 132, 24, 1, 2097152, False, 128, 16, 32, 4, False, True), 2),
    ((64, 132, 24, 1, 2097152, False, 128, 16, 32, 4, False, False), 2),
    ((64, 132, 94, 1, 8388608, False, 128, 64, 8, 1, False, True), 2),
    ((64, 132, 94, 1, 8388608, False, 128, 64, 8, 1, False, False), 2),
    ((80, 132, 5, 1, 360960, False, 128, 10, 64, 8, False, True), 1),
    ((80, 132, 5, 1, 360960, False, 128, 10, 64, 8, False, False), 3),
    ((80, 132, 9, 1, 786432, False, 128, 20, 32, 4, False, True), 1),
    ((80, 132, 9, 1, 786432, False, 128, 20, 32, 4, False, False), 3),
    ((80, 132, 18, 1, 1536000, False, 128, 40, 16, 2, False, True), 1),
    ((80, 132, 18, 1, 1536000, False, 128, 40, 16, 2, False, False), 3),
    ((40, 132, 5, 1, 360960, False, 128, 5, 64, 8, False, True), 3),
    ((40, 132, 5, 1, 360960, False, 128, 5, 64, 8, False, False), 3),
    ((80, 132, 47, 1, 4194304, False, 128, 20, 32, 4, False, True), 3),
    ((80, 132, 47, 1, 4194304, False, 128, 20, 32, 4, False, False), 3),
    ((40, 132, 94, 1, 8388608, False, 128, 40, 8, 1, False, True), 3),
    ((40, 132, 94, 1, 8388608, False, 128, 40, 8, 1, False, False), 3),
    ((96, 132, 5, 1, 360960, False, 128, 12, 64, 8, False, True), 1),
    ((96, 132, 5, 1, 360960, False, 128, 12, 64, 8, False, False), 4),
    ((96, 132, 9, 1, 786432, False, 128, 24, 32, 4, False, True), 1),
    ((96, 132, 9, 1, 786432, False, 128, 24, 32, 4, False, False), 4),
    ((96, 132, 24, 1, 2097152, False, 128, 48, 16, 2, False, True), 1),
    ((96, 132, 24, 1, 2097152, False, 128, 48, 16, 2, False, False), 4),
    ((32, 132, 18, 1, 1536000, False, 128, 4, 64, 8, False, True), 4),
    ((32, 132, 18, 1, 1536000, False, 128, 4, 64, 8, False, False), 4),
    ((32, 132, 94, 1, 8388608, False, 128, 32, 8, 1, False, True), 4),
    ((32, 132, 94, 1, 8388608, False, 128, 32, 8, 1, False, False), 4),
    ((48, 132, 5, 1, 360960, False, 128, 6, 64, 8, False, True), 2),
    ((48, 132, 5, 1, 360960, False, 128, 6, 64, 8, False, False), 5),
    ((48, 132, 24, 1, 2097152, False, 128, 12, 32, 4, False, True), 2),
    ((48, 132, 24, 1, 2097152, False, 128, 12, 32, 4, False, False), 5),
    ((48, 132, 24, 1, 2097152, False, 128, 48, 8, 1, False, True), 2),
    ((48, 132, 24, 1, 2097152, False, 128, 48, 8, 1, False, False), 5),
    ((48, 132, 94, 1, 8388608, False, 128, 48, 8, 1, False, True), 5),
    ((48, 132, 94, 1, 8388608, False, 128, 48, 8, 1, False, False), 5),
    ((20, 132, 94, 1, 8388608, False, 128, 20, 8, 1, False, True), 6),
    ((20, 132, 94, 1, 8388608, False, 128, 20, 8, 1, False, False), 6),
    ((16, 132, 12, 1, 1048576, False, 128, 8, 64, 2, False, True), 7),
    ((16, 132, 12, 1, 1048576, False, 128, 8, 64, 2, False, False), 7),
    ((16, 132, 18, 1, 1536000, False, 128, 2, 64, 8, False, True), 7),
    ((16, 132, 18, 1, 1536000, False, 128, 2, 64, 8, False, False), 7),
    ((16, 132, 24, 1, 2097152, False, 128, 16, 8, 1, False, True), 7),
    ((16, 132, 24, 1, 2097152, False, 128, 16, 8, 1, False, False), 7),
    ((16, 132, 47, 1, 4194304, False, 128, 8, 64, 2, False, True), 8),
    ((16, 132, 47, 1, 4194304, False, 128, 8, 64, 2, False, False), 8),
    ((16, 132, 94, 1, 8388608, False, 128, 16, 8, 1, False, True), 8),
    ((16, 132, 94, 1, 8388608, False, 128, 16, 8, 1, False, False), 8),
    ((4, 132, 9, 1, 786432, False, 128, 1, 32, 4, False, True), 9),
    ((4, 132, 9, 1, 786432, False, 128, 1, 32, 4, False, False), 8),
    ((2, 132, 9, 1, 786432, False, 128, 2, 8, 1, False, True), 9),
    ((2, 132, 9, 1, 786432, False, 128, 2, 8, 1, False, False), 8),
    ((6, 132, 9, 1, 786432, False, 128, 6, 8, 1, False, True), 9),
    ((6, 132, 9, 1, 786432, False, 128, 6, 8, 1, False, False), 8),
    ((12, 132, 47, 1, 4194304, False, 128, 3, 32, 4, False, True), 10),
    ((12, 132, 47, 1, 4194304, False, 128, 3, 32, 4, False, False), 10),
    ((12, 132, 94, 1, 8388608, False, 128, 12, 8, 1, False, True), 10),
    ((12, 132, 94, 1, 8388608, False, 128, 12, 8, 1, False, False), 10),
    ((4, 132, 12, 1, 1048576, False, 128, 4, 64, 1, False, True), 8),
    ((4, 132, 12, 1, 1048576, False, 128, 4, 64, 1, False, False), 11),
    ((10, 132, 12, 1, 1048576, False, 128, 10, 8, 1, False, True), 11),
    ((10, 132, 12, 1, 1048576, False, 128, 10, 8, 1, False, False), 11),
    ((2, 132, 12, 1, 1048576, False, 128, 2, 64, 1, False, True), 12),
    ((2, 132, 12, 1, 1048576, False, 128, 2, 64, 1, False, False), 11),
    ((4, 132, 12, 1, 1048576, False, 128, 2, 16, 2, False, True), 12),
    ((4, 132, 12, 1, 1048576, False, 128, 2, 16, 2, False, False), 11),
    ((6, 132, 12, 1, 1048576, False, 128, 6, 8, 1, False, True), 12),
    ((6, 132, 12, 1, 1048576, False, 128, 6, 8, 1, False, False), 11),
    ((10, 132, 24, 1, 2097152, False, 128, 5, 16, 2, False, True), 12),
    ((10, 132, 24, 1, 2097152, False, 128, 5, 16, 2, False, False), 12),
    ((10, 132, 94, 1, 8388608, False, 128, 10, 8, 1, False, True), 12),
    ((10, 132, 94, 1, 8388608, False, 128, 10, 8, 1, False, False), 12),
    ((8, 132, 24, 1, 2097152, False, 128, 8, 8, 1, False, True), 14),
    ((8, 132, 24, 1, 2097152, False, 128, 8, 8, 1, False, False), 14),
    ((8, 132, 94, 1, 8388608, False, 128, 8, 8, 1, False, True), 15),
    ((8, 132, 94, 1, 8388608, False, 128, 8, 8, 1, False, False), 15),
    ((6, 132, 18, 1, 1536000, False, 128, 6, 8, 1, False, True), 16),
    ((6, 132, 18, 1, 1536000, False, 128, 6, 8, 1, False, False), 16),
    ((6, 132, 47, 1, 4194304, False, 128, 3, 16, 2, False, True), 19),
    ((6, 132, 47, 1, 4194304, False, 128, 3, 16, 2, False, False), 19),
    ((6, 132, 94, 1, 8388608, False, 128, 6, 8, 1, False, True), 19),
    ((6, 132, 94, 1, 8388608, False, 128, 6, 8, 1, False, False), 19),
    ((5, 132, 24, 1, 2097152, False, 128, 5, 8, 1, False, True), 21),
    ((5, 132, 24, 1, 2097152, False, 128, 5, 8, 1, False, False), 21),
    ((5, 132, 94, 1, 8388608, False, 128, 5, 8, 1, False, True), 23),
    ((5, 132, 94, 1, 8388608, False, 128, 5, 8, 1, False, False), 23),
    ((4, 132, 94, 1, 8388608, False, 128, 4, 8, 1, False, True), 29),
    ((4, 132, 94, 1, 8388608, False, 128, 4, 8, 1, False, False), 29),
    ((3, 132, 47, 1, 4194304, False, 128, 3, 8, 1, False, True), 38),
    ((3, 132, 47, 1, 4194304, False, 128, 3, 8, 1, False, False), 38),
    ((3, 132, 94, 1, 8388608, False, 128, 3, 8, 1, False, True), 38),
    ((3, 132, 94, 1, 8388608, False, 128, 3, 8, 1, False, False), 38),
    ((2, 132, 47, 1, 4194304, False, 128, 2, 8, 1, False, True), 40),
    ((2, 132, 47, 1, 4194304, False, 128, 2, 8, 1, False, False), 40),
    ((2, 132, 94, 1, 8388608, False, 128, 2, 8, 1, False, True), 57),
    ((2, 132, 94, 1, 8388608, False, 128, 2, 8, 1, False, False), 57),
    ((1, 132, 94, 1, 8388608, False, 128, 1, 8, 1, False, True), 80),
    ((1, 132, 94, 1, 8388608, False, 128, 1, 8, 1, False, False), 80),
]
MAIN = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <tuple>
#include <vector>
@FUNCTION@
int main() {
    @CALLS@
}
"""


def function():
    """The function alone: the rest of the header may need CUDA's."""
    with open(HEADER, encoding="utf-8") as file:
        text = file.read()
    start = text.index("inline int num_splits_heuristic(")
    depth, end = 0, text.index("{", start)
    while True:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
        if not depth:
            return text[start:end]


def test_num_splits(tmp_path):
    calls = [
        'printf("%d\\n", num_splits_heuristic(' + ", ".join(str(a).lower() for a in given) + "));" for given, _ in CASES
    ]
    source = tmp_path / "main.cpp"
    source.write_text(MAIN.replace("@FUNCTION@", function()).replace("@CALLS@", "\n    ".join(calls)))
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++17", "-o", str(tmp_path / "main"), str(source)], check=True)
    printed = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True).stdout
    decided = [int(line) for line in printed.split()]
    assert decided == [num_splits for _, num_splits in CASES]
