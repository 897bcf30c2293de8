"""What a patched build decides on the GPU of this machine, and what its question for the GPU costs on the host.

    python results/patched-build/by_gpu.py BUNDLE BUILD:NAMESPACE STOCK:NAMESPACE -o by-gpu.json

- `decisions`: the calls of the bundle's table whose launch changes, and as many others, read back as by `evosplit
  confirm`: how many are the bundle's, how many an unpatched library's. On the bundle's GPU all should be the
  bundle's, on any other all an unpatched library's.
- `captured_first`: the first metadata that the process asks the build for, within a CUDA graph; the same outside of it.
- `host_us`: a call of the metadata, or of the forward pass in static mode, enqueued by the host: the unpatched library,
  the same again, the build; medians over rounds of 500 calls, by turns.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from beside_stock import GPU, Builds, read_options, written

from evaluators.confirm.build_decisions import Expected, read_choices
from evaluators.data.contract import Cache, DecodeShape, Mode, Setting
from evaluators.measure import worker_client
from evolve.export.bundle.table import read_bundle

ROUNDS, CALLS = 21, 500
SHAPE = DecodeShape(32, 2048, 8, 1)


def decisions(build: str, setting: Setting, table: Sequence[Expected]) -> dict[str, Any]:
    """Decisions read back in a process of its own, which wants the GPU for itself: before this one uses it."""
    rng = random.Random(5)
    changed = [row for row in table if row.changes(GPU)]
    others = [row for row in table if not row.changes(GPU)]
    worker = worker_client.open_worker(build)
    device, _ = worker.open(setting, seed=5)
    told: dict[str, Any] = {"device": device.name}
    for name, rows in (("changed", changed), ("others", rng.sample(others, min(len(changed), len(others))))):
        read = read_choices(worker, rows, GPU)
        told[name] = {
            "read": len(read), "bundle": sum(c.agrees for c in read), "stock": sum(c.stock for c in read),
            "failed": sum(bool(c.trouble) for c in read),
        }  # fmt: skip
    worker.close()
    return told


def captured_first(builds: Builds) -> dict[str, Any]:
    """Metadata captured before the build was ever asked, and asked for once more."""
    inputs, stream = builds.inputs(SHAPE), torch.cuda.Stream()
    builds.metadata_of(builds.stock, SHAPE, inputs.seqlens)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = builds.metadata_of(builds.patched, SHAPE, inputs.seqlens)
    graph.replay()
    torch.cuda.synchronize()
    eager = builds.metadata_of(builds.patched, SHAPE, inputs.seqlens)
    same = written(captured.tolist(), SHAPE.batch) == written(eager.tolist(), SHAPE.batch)
    return {"same_as_uncaptured": same}


def host_us(builds: Builds) -> dict[str, float]:
    """Time of the host per call."""
    inputs = builds.inputs(SHAPE)

    def call(which: Any) -> Callable[[], object]:
        if builds.setting.mode is Mode.STATIC:
            return lambda: builds.forward(which, inputs, None)
        return lambda: builds.metadata_of(which, SHAPE, inputs.seqlens)

    calls = {"stock": call(builds.stock), "stock_again": call(builds.stock), "build": call(builds.patched)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = random.Random(6)
    for number in range(ROUNDS + 1):
        for name in rng.sample(list(calls), len(calls)):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(CALLS):
                calls[name]()
            spent = time.perf_counter() - begun
            if number:  # the first round warms up
                times[name].append(1e6 * spent / CALLS)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Read, time, and write a report after each part."""
    options = read_options(__doc__)
    bundle = read_bundle(Path(options.bundle), GPU)
    report: dict[str, Any] = {"bundle": bundle.folder.name, "card": bundle.card, "settings": {}}
    settings = {s: t for s, t in bundle.rows.items() if any(row.changes(GPU) for row in t)}

    def keep(setting: Setting, part: str, found: object) -> None:
        report["settings"].setdefault(setting.name, {})[part] = found
        print(setting.name, part, json.dumps(found), flush=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    for setting, table in settings.items():
        assert setting.cache is Cache.COLD
        keep(setting, "decisions", decisions(options.build, setting, table))
    for setting, table in settings.items():
        builds = Builds(setting, options.build, options.stock, table[0].asked)
        if setting.mode is Mode.METADATA:
            keep(setting, "captured_first", captured_first(builds))
        keep(setting, "host_us", host_us(builds))
        del builds
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
