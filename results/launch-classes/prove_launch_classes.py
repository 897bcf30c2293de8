"""Time pairs of decisions that the mirror calls the same launch (needs an H100).

A class of pairs whose members differ by more than 0.5% would have to be split in
`evaluators.fa3.launch.canonical_launch`. Same-decision pairs run along as the noise floor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from evaluators.data.contract import SETTINGS, Decision, Gpu, Mode, Setting
from evaluators.data.workloads import Case, cases_for
from evaluators.fa3.dispatch import ceil_div, resolved_num_splits, stock_blocks_per_split, work_view
from evaluators.fa3.launch import canonical_launch
from evaluators.measure.bench import GpuBench

ROUNDS = 12
MAX_DIFFERENCE = 0.005


def pairs(case: Case, setting: Setting, gpu: Gpu, rng: random.Random) -> Iterator[tuple[str, Decision, Decision]]:
    """(class, one decision, another that the mirror calls the same launch)."""
    shape = case.shape
    auto = Decision(resolved_num_splits(shape, setting, Decision(), gpu))
    yield "same decision twice", auto, auto
    yield "same split decision twice", Decision(32), Decision(32)
    if setting.mode is Mode.STATIC:
        yield "static: sm_margin of a split launch", Decision(4), Decision(4, sm_margin=16)
        return
    work = work_view(shape, setting, 32)
    blocks = stock_blocks_per_split(work, gpu.num_sms)
    top = ceil_div(work.max_n_blocks, blocks)
    if 2 <= top < 32:
        yield "cap above the live splits", Decision(top, blocks_per_split=blocks), Decision(32, blocks_per_split=blocks)
        yield "compiled or rewritten metadata", Decision(32), Decision(32, blocks_per_split=blocks)
    if not shape.ragged and work.max_n_blocks >= 4:
        s = rng.randint(2, min(31, work.max_n_blocks))
        yield (
            "cap or blocks per split",
            Decision(s, blocks_per_split=1),
            Decision(32, blocks_per_split=-(-work.max_n_blocks // s)),
        )


def main() -> int:
    """Time the pairs, print a line per class, write JSON; exit code 1 when a class must be split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--shapes", type=int, default=50, help="shapes per setting")
    options = parser.parse_args()
    rows = []
    for name in ("fa3_fwd-metadata-cold", "fa3_fwd-static-cold", "vllm-metadata-cold"):
        setting = SETTINGS[name]
        bench = GpuBench(setting, 5)
        rng = random.Random(name)
        for case in rng.sample(cases_for("llama31-70b", setting), options.shapes):
            found = [
                p
                for p in pairs(case, setting, bench.gpu, rng)
                if canonical_launch(case.shape, setting, p[1], bench.gpu)
                == canonical_launch(case.shape, setting, p[2], bench.gpu)
            ]
            decisions = [d for _, a, b in found for d in (a, b)]
            timed = bench.shapes.time_decisions(case, decisions, rounds=ROUNDS)
            for k, (label, a, b) in enumerate(found):
                first, second = timed[2 * k][0], timed[2 * k + 1][0]
                logs = [math.log(y / x) for x, y in zip(first, second, strict=True)]
                rows.append(
                    {
                        "class": label,
                        "setting": name,
                        "case": case.id,
                        "one": f"{a.num_splits}/{a.blocks_per_split}/{a.sm_margin}",
                        "other": f"{b.num_splits}/{b.blocks_per_split}/{b.sm_margin}",
                        "log_ratio": round(statistics.median(logs), 6),
                        "standard_error": round(statistics.stdev(logs) / math.sqrt(ROUNDS), 6),
                    }
                )
        del bench
    summary = []
    for label in sorted({str(r["class"]) for r in rows}):
        ratios = [float(r["log_ratio"]) for r in rows if r["class"] == label]
        summary.append(
            {
                "class": label,
                "pairs": len(ratios),
                "median_difference": round(statistics.median(ratios), 5),
                "median_absolute_difference": round(statistics.median(abs(v) for v in ratios), 5),
                "beyond_half_a_percent": sum(abs(v) > MAX_DIFFERENCE for v in ratios),
            }
        )
    options.output.write_text(
        json.dumps({"summary": summary, "pairs": rows}, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    for line in summary:
        print(line)
    return int(any(abs(float(str(line["median_difference"]))) > MAX_DIFFERENCE for line in summary))


if __name__ == "__main__":
    raise SystemExit(main())
