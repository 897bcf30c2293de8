"""Record `models-mixed` on this machine's GPU: bf16, fp8, and vLLM's paged kernel where its library is there.

Each setting gets its share of the minutes, and its slice is continued by the same command; a setting that cannot be
measured here is passed over. The slices become tables by `evosplit record --merge`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from evaluators.data.contract import LIVE_SETTINGS
from evaluators.latencies.slices import slice_rows
from evaluators.measure.errors import MeasureError, RecordingError
from evaluators.measure.pool import open_pool
from evaluators.measure.recorder import RecordingProgress, record

SHARES = {"fa3_fwd-metadata-cold": 0.4, "fa3_fwd-metadata-cold-fp8": 0.35, "vllm-metadata-cold": 0.25}
WORKLOAD = "models-mixed"
SHOWN = 8


def main() -> int:
    """Record until the minutes are over; exit code 1 when nothing was recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of slices")
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    began, lines = time.monotonic(), []
    for index, (name, share) in enumerate(SHARES.items()):
        setting = LIVE_SETTINGS[name]
        path = options.output / f"{name}.jsonl"
        # What a setting leaves of its share goes to the next ones.
        left_share = share / sum(list(SHARES.values())[index:])
        started = time.monotonic()
        deadline = started + left_share * (60 * options.minutes - (started - began))
        lost: Counter[str] = Counter()

        def show(p: RecordingProgress, name: str = name, lost: Counter[str] = lost) -> None:
            if p.failed:
                lost[p.failed.partition(": ")[2][:100] or p.failed[:100]] += 1
            if p.done % 50 == 0:
                print(f"{name}: {p.done} of {p.total}, {p.seconds_left:.0f} s left", file=sys.stderr)

        try:
            with closing(open_pool(None, "all", [setting], on_event=print)) as pool:
                left = record(pool, WORKLOAD, setting, path, folder=False, deadline=deadline, on_progress=show)
        except (MeasureError, RecordingError) as error:
            lines.append(f"{name}: stopped: {error}")
            continue
        rows = [r for r in slice_rows(path) if "cells" in r] if path.exists() else []
        cells = sum(len(r["cells"]) for r in rows)
        worst = max((c["error"] for r in rows for c in r["cells"]), default=0.0)
        spent = time.monotonic() - started
        lines.append(f"{name}: {len(rows)} shapes, {cells} launches, {left} shapes left, {sum(lost.values())} lost, "
            f"{spent:.0f} s, {1e3 * spent / max(1, cells):.1f} ms a launch, largest error {worst:.4f}")  # fmt: skip
        lines += [f"    lost {count} times: {reason}" for reason, count in lost.most_common(SHOWN)]
    print("\n".join(lines))
    return 0 if any(p.stat().st_size for p in options.output.glob("*.jsonl")) else 1


if __name__ == "__main__":
    raise SystemExit(main())
