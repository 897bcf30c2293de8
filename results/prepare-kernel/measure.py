"""Checks and times the prepare kernel's rules on a Hopper GPU.

    python results/prepare-kernel/measure.py build -o OUT

`build` is what build.py wrote. Three questions: whether the kernel decides as the program on every recorded call, what
a rule costs by itself (warm, and with its code and data evicted), and what a decode step of 80 layers gains and pays
when its metadata is prepared once. Writes prepare_kernel.json into OUT and prints a table; a failure of one part leaves
the others.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import json
import random
import statistics
import time
import traceback
from itertools import product
from pathlib import Path
from typing import Any

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu

LAYERS = 80
ROUNDS = 15
SIZES = (1, 8, 31, 64, 256, 992)
LONGEST = {"5.6k": 32, "16k": 94, "131k": 745}
"""Blocks of 176 keys of the longest sequence, by its length."""
HEADS = (1, 8)
REPEATS = 100
COLD_READINGS = 25


class Kernels:
    """Kernels of one cubin, launched on the current stream."""

    def __init__(self, path: Path, warps: int) -> None:
        """Load it into the current device's context; each launch has so many warps at least."""
        self._warps = warps
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        self._image = path.read_bytes()
        self._ok(self._driver.cuModuleLoadData(ctypes.byref(self._module), self._image))
        self._kernels: dict[int, ctypes.c_void_p] = {}

    def _ok(self, code: int) -> None:
        if code:
            raise RuntimeError(f"CUDA driver error {code}")

    def launch(self, call: list[int], measured: int, buffers: tuple[Any, ...]) -> None:
        """Enqueue one call: six numbers and the batch, then five device buffers."""
        import torch

        batch = call[6]
        warps = next(w for w in (1, 2, 4, 8, 16, 32) if (31 * w >= batch and w >= self._warps) or w == 32)
        if warps not in self._kernels:
            found = ctypes.c_void_p()
            self._ok(self._driver.cuModuleGetFunction(ctypes.byref(found), self._module, f"prepare_{warps}".encode()))
            self._kernels[warps] = found
        numbers = [ctypes.c_int(n) for n in (*call[:6], batch, measured)]
        pointers = [ctypes.c_void_p(b.data_ptr()) for b in buffers]
        given = [*numbers, *pointers]
        places = (ctypes.c_void_p * len(given))(*(ctypes.cast(ctypes.byref(g), ctypes.c_void_p) for g in given))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._ok(self._driver.cuLaunchKernel(self._kernels[warps], 1, 1, 1, 32 * warps, 1, 1, 0, stream, places, None))


def buffers_for(n_blocks: list[int], block_n: int) -> tuple[Any, ...]:
    """Lengths on the device, and room for what the kernel writes."""
    import torch

    lengths = torch.tensor([n * block_n - (i % block_n if n else 0) for i, n in enumerate(n_blocks)],
                           dtype=torch.int32, device="cuda")  # fmt: skip
    return (lengths, *(torch.zeros(1024, dtype=torch.int32, device="cuda") for _ in range(3)),
            torch.zeros(1, dtype=torch.int32, device="cuda"))  # fmt: skip


def check(kernels: dict[str, Kernels], told: dict[str, Any]) -> dict[str, Any]:
    """Compare every call, and the splits that follow from it."""
    import torch

    found: dict[str, Any] = {}
    for name, answers in told["answers"].items():
        different: list[dict[str, Any]] = []
        for index, (call, wanted) in enumerate(zip(told["calls"], answers, strict=True)):
            *scalars, n_blocks = call
            buffers = buffers_for(n_blocks, scalars[5])
            kernels[name].launch([*scalars, len(n_blocks)], 1, buffers)
            got = int(buffers[4].item())
            live = [max(min(-(-n // wanted), scalars[3]), 1) for n in n_blocks]
            if got != wanted or buffers[1][: len(live)].tolist() != live:
                different.append({"call": index, "program": wanted, "kernel": got})
        torch.cuda.synchronize()
        found[name] = {"calls": len(answers), "recorded": told["recorded"], "different": len(different),
                       "first": different[:20]}  # fmt: skip
    return found


def costs(kernels: dict[str, Kernels], gpu: Gpu) -> list[dict[str, Any]]:
    """Microseconds of one launch: in a graph of many, and alone behind an eviction of L2."""
    import torch

    from evaluators.measure.timing import Evictor

    rng, evictor, found = random.Random(3), Evictor(gpu), []
    for size, (label, longest), even, heads in product(SIZES, LONGEST.items(), (False, True), HEADS):
        n_blocks = [longest if even else rng.randint(1, longest) for _ in range(size)]
        n_blocks[0] = longest
        call = [heads, 8, gpu.num_sms, 32, 128, 176, size]
        buffers = buffers_for(n_blocks, 176)
        line: dict[str, Any] = {"batch": size, "heads": heads, "longest": label, "blocks": longest, "even": even}
        graphs = {}
        for name, own in kernels.items():
            own.launch(call, 1, buffers)
            torch.cuda.synchronize()
            graphs[name] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[name]):
                for _ in range(REPEATS):
                    own.launch(call, 1, buffers)
        spans: dict[str, list[float]] = {name: [] for name in kernels}
        alone: dict[str, list[float]] = {name: [] for name in kernels}
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(ROUNDS):
            for name in rng.sample(list(kernels), len(kernels)):
                start.record()
                graphs[name].replay()
                end.record()
                end.synchronize()
                spans[name].append(start.elapsed_time(end) * 1e3 / REPEATS)
        for _ in range(COLD_READINGS):
            for name in rng.sample(list(kernels), len(kernels)):
                evictor.run()
                start.record()
                kernels[name].launch(call, 1, buffers)
                end.record()
                end.synchronize()
                alone[name].append(start.elapsed_time(end) * 1e3)
        for name in kernels:
            line[f"{name}_us"] = round(statistics.median(spans[name]), 3)
            line[f"{name}_cold_us"] = round(statistics.median(alone[name]), 3)
        found.append(line)
    return found


class StepLaunch:
    """A decode step as the timer captures it: the prepare kernel once, then one call per layer."""

    def __init__(self, prepare: Any, layer: Any) -> None:
        """Keep both."""
        self._prepare, self._layer, self._calls = prepare, layer, 0

    def run(self, copy: int) -> None:
        """Enqueue the next layer."""
        if self._calls % LAYERS == 0:
            self._prepare()
        self._calls += 1
        self._layer.run(copy)


def step_times(kernels: dict[str, Kernels], told: dict[str, Any], gpu: Gpu) -> list[dict[str, Any]]:
    """Microseconds of whole steps: stock, stock's layers behind the rule's kernel, and the rule's layers behind it.

    The layers take metadata with the splits that the kernel decides; it is written beforehand, and what the prepare
    kernel writes in the step goes to buffers of its own.
    """
    import torch

    from evaluators.fa3.dispatch import work_view
    from evaluators.measure.providers.registry import open_provider
    from evaluators.measure.shape_timer import ShapeTimer

    setting = SETTINGS[told["setting"]]
    timer = ShapeTimer(setting, open_provider(setting.provider), gpu, seed=11)
    rng, found = random.Random(5), []
    for told_step in told["steps"]:
        shape = DecodeShape.from_json(told_step["shape"])
        decisions = {which: Decision(*_row(told_step[which])) for which in ("stock", "chosen")}
        try:
            plan, inputs = timer.fresh_inputs(shape, LAYERS)
            memory = torch.cuda.graph_pool_handle()
            bound = {which: timer.provider.bind(inputs, d, gpu) for which, d in decisions.items()}
            prepares = {}
            program = told_step["program"]
            for name, which in (("stock", "stock"), (program, "chosen")):
                work = work_view(shape, setting, decisions[which].num_splits)
                call = [work.num_heads_kv, work.qheads_per_kvhead, gpu.num_sms, work.num_splits, work.block_m,
                        work.block_n, shape.batch]  # fmt: skip
                buffers = buffers_for(list(work.n_blocks), work.block_n)
                prepares[name] = (kernels[name], call, buffers)

            def prepare(name: str, ready: dict[str, Any] = prepares) -> Any:
                own, call, buffers = ready[name]
                return lambda: own.launch(call, 1, buffers)

            arms = {
                "stock": StepLaunch(prepare("stock"), bound["stock"]),
                "control": StepLaunch(prepare("stock"), bound["stock"]),
                "cost": StepLaunch(prepare(program), bound["stock"]),
                "rule": StepLaunch(prepare(program), bound["chosen"]),
            }
            for launch in bound.values():
                launch.run(0)
            torch.cuda.synchronize()
            graphs = [timer.timer.capture(launch, plan, memory) for launch in arms.values()]
            cells = timer.timer.time(graphs, plan, rounds=ROUNDS, rng=rng)
            spans = {arm: [x * LAYERS for x in c.latencies_us] for arm, c in zip(arms, cells, strict=True)}
            line = {"program": program, "case": told_step["case"], "recorded": told_step["recorded"],
                    "step_us": round(statistics.median(spans["stock"]), 2)}  # fmt: skip
            for arm in ("control", "cost", "rule"):
                pairs = [b - a for a, b in zip(spans["stock"], spans[arm], strict=True)]
                line[f"{arm}_us"] = round(statistics.median(pairs), 2)
            line["speedup"] = round(statistics.median(
                a / b for a, b in zip(spans["stock"], spans["rule"], strict=True)), 4)  # fmt: skip
            found.append(line)
        except Exception as error:  # one shape must not take the others with it
            found.append(
                {
                    "program": told_step["program"],
                    "case": told_step["case"],
                    "error": f"{type(error).__name__}: {error}"[:300],
                }
            )
        timer.tidy()
    return found


def _row(row: list[Any]) -> tuple[int, bool | None, int, int]:
    """A decision's fields in the order of `Decision`."""
    num_splits, pack_gqa, sm_margin, blocks = row
    return num_splits, pack_gqa, sm_margin, blocks


def main() -> None:
    """Measure all, save after each part, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("-o", type=Path, required=True)
    given = parser.parse_args()
    import torch

    given.o.mkdir(parents=True, exist_ok=True)
    told = json.loads(gzip.decompress((given.build / "calls.json.gz").read_bytes()))
    properties = torch.cuda.get_device_properties(0)
    gpu = Gpu(properties.multi_processor_count, properties.L2_cache_size)
    torch.zeros(1, device="cuda")
    kernels = {name: Kernels(given.build / f"{name}.cubin", told["warps"].get(name, 1)) for name in told["built"]}
    report: dict[str, Any] = {
        "device": properties.name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        "target": told["target"], "setting": told["setting"], "commit": told["commit"], "built": told["built"],
    }  # fmt: skip
    for part, work in (
        ("check", lambda: check(kernels, told)),
        ("costs", lambda: costs(kernels, gpu)),
        ("steps", lambda: step_times(kernels, told, gpu)),
    ):
        started = time.monotonic()
        try:
            report[part] = work()
        except Exception:  # the other parts are worth having
            report[f"{part}_error"] = traceback.format_exc()
        report[f"{part}_s"] = round(time.monotonic() - started, 1)
        (given.o / "prepare_kernel.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for part in ("costs", "steps", "check"):
        print(part, f"{report[f'{part}_s']} s", report.get(f"{part}_error", ""))
        rows = report.get(part, [])
        for line in rows.items() if isinstance(rows, dict) else rows:
            told_of = line if isinstance(line, dict) else {line[0]: line[1]}
            print("  ", *(f"{k} {v}" for k, v in told_of.items() if not k.endswith("_cold_us")))


if __name__ == "__main__":
    main()
