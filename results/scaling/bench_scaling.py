"""How recording scales over the GPUs of one host, and whether busy neighbours make false differences.

Needs GPUs. Strong scaling: the same part of a workload on 1, 2, 4, ... GPUs through the executor `local`, timed with
and without the start of the workers; once more with a worker killed (SIGKILL) on the way. A/A: pairs of a launch
against itself, first on one GPU while the others idle, then on all GPUs at once.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from recordings_agree import agreement

from evaluators.data.contract import SETTINGS, Decision, Gpu, Setting
from evaluators.data.workloads import cases_for
from evaluators.fa3.actions import recorded_actions
from evaluators.measure import pairing
from evaluators.measure.executor import Channel, WorkerInfo
from evaluators.measure.gpu_lock import LOCK_FOLDER
from evaluators.measure.local import LocalExecutor, visible_gpus
from evaluators.measure.pairing import Block, Verdict
from evaluators.measure.pool import Pool
from evaluators.measure.providers.memory import live_kv_bytes
from evaluators.measure.recorder import record, slice_cases
from evaluators.measure.timing import BYTES_PER_US
from evaluators.measure.worker_process import BENCH

WORKLOAD = "llama31-70b"
MAX_PAIR_US = 60.0
"""Largest launches of the A/A pairs, by the bytes that they read; as in prove_bench.py."""


def one_recording(
    executor: LocalExecutor, gpus: int, setting: Setting, part: tuple[int, int], folder: Path, *, kill_after_s: float
) -> dict[str, Any]:
    """Record the part on so many GPUs; a worker is killed after so many seconds of recording, unless that is 0."""
    events: list[str] = []
    began = time.monotonic()
    with closing(Pool(executor, [setting], gpus=gpus, on_event=events.append)) as pool:
        ready = time.monotonic()
        uuids = [d.uuid for d in pool.devices]
        bench = pool.benches(setting)[uuids[0]]

        def kill() -> None:
            pid = int((LOCK_FOLDER / f"{uuids[-1]}.lock").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(kill_after_s, kill) if kill_after_s else None
        if timer is not None:
            timer.start()
        left = record(pool, WORKLOAD, setting, folder, folder=True, part=part)
        done = time.monotonic()
        if timer is not None:
            timer.cancel()
    report = pool.report()
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    cells = [r for r in rows if "cells" in r]
    with lzma.open(folder.with_suffix(".jsonl.xz"), "wt", encoding="utf-8") as out:
        for path in sorted(folder.glob("*.jsonl")):
            out.write(path.read_text())
    device = {k: v for k, v in asdict(bench.device).items() if k != "uuid"}
    return {
        "measured_on": {"device": device, "build": bench.build},
        "gpus": gpus,
        "killed": bool(kill_after_s),
        "start_s": ready - began,
        "record_s": done - ready,
        "end_s": time.monotonic() - done,
        "shapes": len(cells),
        "launches": sum(len(r["cells"]) for r in cells),
        "twice": len(cells) - len({r["case"] for r in cells}),
        "failed": sum("failed" in r for r in rows),
        "left": left,
        "lost_workers": sum(w.lost for w in report),
        "busy_s": {w.uuid: round(w.busy_s, 2) for w in report if w.uuid},
        "launches_by_gpu": {w.uuid: w.launches for w in report if w.uuid},
        "events": events,
    }


def draw_pairs(setting: Setting, gpu: Gpu, seed: int, count: int) -> list[tuple[Any, Decision]]:
    """Random shapes of the workload with a random recorded decision each; the same for the same seed."""
    rng, cases, drawn = random.Random(seed), cases_for(WORKLOAD, setting), []
    while len(drawn) < count:
        case = rng.choice(cases)
        if live_kv_bytes(case.shape) / BYTES_PER_US > MAX_PAIR_US:
            continue
        decision, _ = rng.choice(list(recorded_actions(case.shape, setting, gpu).values()))
        if not decision.sm_margin:
            drawn.append((case, decision))
    return drawn


def open_channels(executor: LocalExecutor, uuids: Sequence[str], setting: Setting) -> list[tuple[Channel, WorkerInfo]]:
    """A worker per GPU, opened at once."""
    found: dict[str, tuple[Channel, WorkerInfo]] = {}

    def start(uuid: str) -> None:
        channel = executor.start(uuid)
        found[uuid] = channel, channel.open([setting], seed=len(found))

    together([partial(start, uuid) for uuid in uuids])
    return [found[uuid] for uuid in uuids]


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run jobs in a thread each, and wait for all."""
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def same_against_same(
    channel: Channel, info: WorkerInfo, setting: Setting, seed: int, pairs: int, seconds: float
) -> list[dict[str, Any]]:
    """Pairs of a launch against itself on one GPU."""
    uuid, rows = info.device.uuid, []
    until = time.monotonic() + seconds
    for k, (case, decision) in enumerate(draw_pairs(setting, info.device.gpu(), seed, pairs)):
        if time.monotonic() > until:
            break

        def measure(orders: Sequence[str], case: Any = case, decision: Decision = decision) -> list[Block]:
            one, shape = decision.as_row(), case.shape.as_json()
            found = channel.ask("pairs", setting, shape=shape, one=one, other=one, orders=list(orders))
            return [Block.from_json(row) for row in found]

        result = pairing.compare(measure, random.Random(seed * 100_003 + k))
        rows.append(
            {
                "uuid": uuid,
                "case": case.id,
                "num_splits": decision.num_splits,
                "called": result.verdict.value,
                "log_ratio": result.interval.mean if result.interval else None,
                "blocks": result.blocks,
            }
        )
    return rows


def aa(
    channels: Sequence[tuple[Channel, WorkerInfo]], setting: Setting, pairs: int, seconds: float
) -> list[dict[str, Any]]:
    """A/A on these GPUs at once."""
    found: list[list[dict[str, Any]]] = [[] for _ in channels]

    def work(k: int) -> None:
        found[k] = same_against_same(*channels[k], setting, 20 + k, pairs, seconds)

    together([partial(work, k) for k in range(len(channels))])
    return [{"busy": len(channels), **r} for rows in found for r in rows]


def share(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many pairs were called different, with a 95% Wilson interval."""
    n, k = len(rows), sum(r["called"] in (Verdict.FASTER.value, Verdict.SLOWER.value) for r in rows)
    z, p = 1.96, k / max(1, n)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    spread = sorted(abs(math.expm1(r["log_ratio"])) for r in rows if r["log_ratio"] is not None)
    return {
        "pairs": n,
        "called_different": k,
        "share": round(p, 4),
        "interval": [round(max(0.0, middle - half), 4), round(middle + half, 4)],
        "unreliable": sum(r["called"] == Verdict.UNRELIABLE.value for r in rows),
        "median_abs_percent": round(100 * spread[len(spread) // 2], 4),
        "p95_abs_percent": round(100 * spread[int(0.95 * (len(spread) - 1))], 4),
    }


def summarise(folder: Path, report: dict[str, Any]) -> None:
    """Add speed-ups over one GPU, and how far the recordings agree with that of one GPU."""
    slices = sorted(folder.glob("slices-*.jsonl.xz"))
    rows = report["recordings"]
    alone = next((k for k, row in enumerate(rows) if row["gpus"] == 1), None)
    if alone is None:
        return
    parts = ("start_s", "record_s", "end_s")
    for row in rows:
        row["speedup"] = round(rows[alone]["record_s"] / row["record_s"], 3)
        row["speedup_with_start"] = round(sum(rows[alone][p] for p in parts) / sum(row[p] for p in parts), 3)
    report["agreement"] = [agreement(slices[alone], path) for path in slices if path != slices[alone]]


def main() -> int:
    """Run everything; each result is written as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 2, 1], help="recordings, in this order")
    parser.add_argument("--part", default="1/4", help="part of the workload that is recorded")
    parser.add_argument("--kill-after", type=float, default=4.0, help="seconds; of one more recording on all GPUs")
    parser.add_argument("--pairs", type=int, default=500, help="most A/A pairs per GPU")
    parser.add_argument("--pair-seconds", type=float, default=36.0, help="longest A/A phase")
    parser.add_argument("--setting", default="fa3_fwd-metadata-cold", choices=sorted(SETTINGS))
    parser.add_argument("--bench", default=BENCH, help="what measures; another than the default is a rehearsal")
    parser.add_argument("--uuids", nargs="*", help="GPUs; default: all that are visible")
    parser.add_argument("--again", action="store_true", help="measure nothing: summarise the folder anew")
    options = parser.parse_args()
    folder: Path = options.output
    if options.again:
        kept = json.loads((folder / "scaling.json").read_text(encoding="utf-8"))
        summarise(folder, kept)
        (folder / "scaling.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return 0
    folder.mkdir(parents=True)
    setting = SETTINGS[options.setting]
    index, count = map(int, options.part.split("/"))
    uuids = options.uuids or visible_gpus()
    executor = LocalExecutor(uuids, bench=options.bench)
    shapes = len(list(slice_cases(WORKLOAD, setting, (index - 1, count))))
    report: dict[str, Any] = {
        "workload": WORKLOAD,
        "setting": setting.name,
        "part": options.part,
        "shapes": shapes,
        "cores": os.cpu_count(),
        "recordings": [],
        "same_against_same": {},
    }

    def keep() -> None:
        (folder / "scaling.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    plan = [(n, 0.0) for n in options.gpus if n <= len(uuids)]
    plan += [(len(uuids), options.kill_after)] if options.kill_after else []
    for k, (gpus, kill_after_s) in enumerate(plan):
        target = folder / f"slices-{k}-{gpus}"
        row = one_recording(executor, gpus, setting, (index - 1, count), target, kill_after_s=kill_after_s)
        report |= row.pop("measured_on")
        report["recordings"].append(row)
        keep()
        print({k: v for k, v in row.items() if k not in ("launches_by_gpu",)}, flush=True)
    pair_rows = []
    channels = open_channels(executor, uuids, setting)
    for name, taking_part in (("one busy", channels[:1]), ("all busy", channels)):
        found = aa(taking_part, setting, options.pairs, options.pair_seconds)
        pair_rows += found
        report["same_against_same"][name] = share(found)
        if len(taking_part) > 1:
            report["same_against_same"]["all busy, the first GPU's"] = share(
                [r for r in found if r["uuid"] == uuids[0]]
            )
        keep()
        with lzma.open(folder / "pairs.json.xz", "wt", encoding="utf-8") as out:
            json.dump(pair_rows, out)
        print(name, report["same_against_same"][name], flush=True)
    for channel, _ in channels:
        channel.close()
    summarise(folder, report)
    keep()
    for row in report["recordings"]:
        print(f"{row['gpus']} GPUs{' (one worker killed)' if row['killed'] else ''}: start {row['start_s']:.1f} s, "
              f"recording {row['record_s']:.1f} s, {row['launches']} launches, {row['shapes']} of {shapes} shapes, "
              f"{row.get('speedup')}x, with start {row.get('speedup_with_start')}x")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
