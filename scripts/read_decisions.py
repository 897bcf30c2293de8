"""Read decisions back from the compiled libraries and compare them with the mirror (needs an H100 or H200).

Writes one JSON line per reading; `tests/fixtures/decisions.jsonl.gz` is its output.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.measure.compiled_decisions import (
    CompiledDecision,
    mirror,
    read_metadata,
    read_num_splits,
    reading_setting,
)
from evaluators.measure.providers import ProviderUnavailable, open_provider
from evaluators.measure.providers.memory import KvPool


def main() -> int:
    """Read, compare, write; exit code 1 when any decision differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    pool = KvPool((6 << 30) // 2, seed=1)
    readings: list[CompiledDecision] = []
    for name in ("fa3_fwd", "vllm"):
        try:
            provider = open_provider(name)
        except ProviderUnavailable as error:
            print(f"{name}: not read: {error}", file=sys.stderr)
            continue
        setting = reading_setting(f"{name}-metadata")
        readings += read_metadata(provider, setting, count=options.count, seed=2)
        if name == "fa3_fwd":
            for mode in ("static", "varlen"):
                setting = reading_setting(f"{name}-{mode}")
                readings += read_num_splits(provider, setting, pool, count=options.count // 2, seed=3)
    with gzip.GzipFile(filename=str(options.output), mode="wb", mtime=0) as out:
        for reading in readings:
            out.write(json.dumps(reading.as_json(), separators=(",", ":")).encode() + b"\n")
    wrong = [r for r in readings if mirror(r, Gpu()) != r.compiled]
    total = Counter(r.setting for r in readings)
    bad = Counter(r.setting for r in wrong)
    for setting_name, n in total.items():
        print(f"{setting_name}: {n} readings, {bad[setting_name]} differ")
    for r in wrong[:40]:
        print(r, "mirror:", mirror(r, Gpu()))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
