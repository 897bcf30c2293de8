"""Decode kernels of servers and of PyTorch beside the Triton decode kernel and FA3: one process, the same calls.

Every arm of a shape runs over the same lengths from cold L2 in CUDA graphs, in a new random order each round; outputs
are compared with an fp32 reference before and after. FA3's best constant num_splits is found in a first pass and timed
again from a new capture. Shapes are of the holdout, two uniform ones to a ragged one, in a random order, each a line of
`measured.jsonl` when it is done: the same command goes on with what is left. What a peer refuses is recorded beside it.

    python results/peers/compare.py --seconds 200 -o FOLDER

Needs a Hopper GPU, the extras gpu and triton, vLLM's FA3 (EVOSPLIT_VLLM_FA3 or vllm), and the packages vllm, sglang and
flashinfer-python, as many as are wanted; of the first two their Python files are enough. `table.py` summarises.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from arms import PeerMissing, flashinfer_paged, flex_attention, sglang_triton, vllm_triton

from evaluators.data.contract import SETTINGS, Gpu
from evaluators.data.workloads import Case, Split, llama31_70b
from evaluators.measure.device import ClockLog, current_device
from evaluators.measure.peers import PEERS
from evaluators.measure.providers import BoundLaunch, CallInputs, open_provider
from evaluators.measure.providers.triton_decode import TritonDecode, load_kernel
from evaluators.measure.recorder import end_torn_line, finished_cases
from evaluators.measure.shape_timer import MAX_RELATIVE_ERROR, ShapeTimer, reference, relative_error
from evaluators.measure.timing import launches_per_replay
from evaluators.triton_decode.decision import TritonDecision

ROOT = Path(__file__).resolve().parents[2]
CONTIGUOUS, PAGED = SETTINGS["triton_decode-metadata-cold"], SETTINGS["triton_decode-paged-cold"]
STATIC = SETTINGS["fa3_fwd-static-cold"]
PROGRAMS = {False: "results/champions/triton-metadata.py", True: "seeds/triton_waves_paged.py"}
"""Schedules of the Triton kernel, by whether KV is paged."""

NAIVE = "seeds/triton_naive.py"
FA3_SPLITS = (1, 2, 3, 4, 6, 8, 16, 32)
UNIFORM, RAGGED = 60, 30
FLEX_SHAPES = 24
"""Shapes of flex attention, the first ones: it is compiled anew for each."""

FLEX_SECONDS = 60.0
"""Of its compilation while the GPU is held, at most."""

FIRST_ROUNDS, ROUNDS = 3, 8
WARMERS = 8
"""Processes that compile kernels ahead, by running each shape once."""

Launch = Callable[[int], Any]


@dataclass(slots=True)
class Arm:
    """One kernel on one shape.

    Attributes:
        name: as tables hold it.
        launch: enqueues the call over a KV copy, and returns its output.
        inputs: tensors of the call.
        paged: whether KV is paged.
        out: output of the launch before.
        error: worst relative error against fp32.
    """

    name: str
    launch: Launch
    inputs: CallInputs
    paged: bool
    out: Any = None
    error: float = 0.0

    def run(self, copy: int) -> None:
        """One call, whose output is kept."""
        self.out = self.launch(copy)

    def check(self, expected: Any) -> None:
        """Compare the output with the reference; axes of one element do not count."""
        error = float(relative_error(self.out.reshape(-1), expected.reshape(-1)).nan_to_num(nan=float("inf")))
        self.error = max(self.error, error)


def chosen_cases() -> list[Case]:
    """Holdout shapes in the order in which they are measured: two uniform ones, a ragged one."""
    groups = []
    for ragged in (False, True):
        group = [c for c in llama31_70b() if c.split is Split.HOLDOUT and c.ragged is ragged]
        random.Random(f"peers {ragged}").shuffle(group)
        groups.append(group)
    uniform, ragged_ones = groups[0][:UNIFORM], groups[1][:RAGGED]
    return [case for i, r in enumerate(ragged_ones) for case in (*uniform[2 * i : 2 * i + 2], r)]


def rule_of(path: str) -> Any:
    """Functions of a program."""
    from triton_decode.rule import Rule

    spec = importlib.util.spec_from_file_location(f"program_{Path(path).stem.replace('-', '_')}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Rule(module.schedule, getattr(module, "blocks_per_split", None))


def decided(rule: Any, case: Case, page_size: int, gpu: Gpu) -> TritonDecision:
    """What a program decides for a shape, on any GPU."""
    from triton_decode.rule import Call

    shape = case.shape
    call = Call(shape.batch, shape.seqlen_k, shape.num_heads_q, shape.num_heads_kv, shape.head_dim,
                page_size=page_size, num_sms=gpu.num_sms, gpu="")  # fmt: skip
    found = rule.schedule_for(call, shape.seqlens)
    if found is None:
        return TritonDecision()
    return TritonDecision(found.num_splits, found.blocks_per_split, found.block_n, found.num_warps, found.num_stages)


class PeerBench:
    """All kernels on one GPU."""

    def __init__(self) -> None:
        load_kernel()
        record = current_device()
        self.gpu = Gpu(num_sms=record.num_sms, l2_bytes=record.l2_bytes)
        self.providers = {paged: TritonDecode(paged=paged) for paged in (False, True)}
        self.fa3 = open_provider("fa3_fwd")
        self.rules = {paged: rule_of(path) for paged, path in PROGRAMS.items()}
        self.naive = rule_of(NAIVE)
        self.rng = random.Random(0)
        self.flex_s = 0.0
        self.missing: dict[str, str] = {}
        self.timers = {
            paged: ShapeTimer(setting, self.providers[paged], self.gpu)
            for paged, setting in ((False, CONTIGUOUS), (True, PAGED))
        }

    def ours(self, name: str, rule: Any, case: Case, inputs: CallInputs, paged: bool) -> Arm:
        """The Triton kernel with what a program decides; a decision for FA3 runs FA3."""
        decision = decided(rule, case, inputs.setting.page_size, self.gpu)
        bound = self.providers[paged].bind(inputs, decision, self.gpu)
        return Arm(name, with_output(bound, inputs), inputs, paged)

    def own_arms(self, case: Case, contiguous: CallInputs, paged: CallInputs) -> list[Arm]:
        """The Triton kernel and FA3's own choice, twice each, the A/A control; the naive schedule."""
        arms = [self.ours("naive", self.naive, case, contiguous, False)]
        for again in ("", " again"):
            for is_paged, inputs in ((False, contiguous), (True, paged)):
                ours, fa3 = ("paged", "vLLM FA3") if is_paged else ("champion", "FA3 stock")
                arms.append(self.ours(ours + again, self.rules[is_paged], case, inputs, is_paged))
                stock = self.providers[is_paged].bind_own(inputs, 0)
                arms.append(Arm(fa3 + again, with_output(stock, inputs), inputs, is_paged))
        return arms

    def fa3_arm(self, name: str, inputs: CallInputs, splits: int) -> Arm:
        """FA3 with a constant num_splits, 0 for its own choice."""
        return Arm(name, with_output(self.fa3.bind_own(inputs, splits), inputs), inputs, False)

    def peer_arms(self, case: Case, contiguous: CallInputs, paged: CallInputs, flex: bool) -> dict[str, Any]:
        """Arms of other projects by name, or why there is none."""
        makers: dict[str, tuple[Callable[[], Launch], CallInputs, bool]] = {
            "vLLM Triton": (lambda: vllm_triton(paged, self.gpu), paged, True),
            "SGLang Triton": (lambda: sglang_triton(paged, self.gpu), paged, True),
            "FlashInfer": (lambda: flashinfer_paged(paged, self.gpu), paged, True),
        }
        for name in (n for n in PEERS if n not in ("FlashInfer", "FA4")):
            makers[name] = (lambda name=name: PEERS[name](contiguous), contiguous, False)
        if flex and self.flex_s < FLEX_SECONDS:
            makers["flex attention"] = (lambda: flex_attention(contiguous, self.gpu), contiguous, False)
        found: dict[str, Any] = {}
        for name, (make, inputs, is_paged) in makers.items():
            started = time.monotonic()
            try:
                if name in self.missing:
                    raise PeerMissing(self.missing[name])
                arm = Arm(name, make(), inputs, is_paged)
                inputs.out.fill_(float("nan"))
                arm.run(0)
                sync()
                found[name] = arm
            except PeerMissing as error:
                self.missing[name] = found[name] = str(error)
            except Exception as error:  # whatever a foreign kernel raises costs its arm alone
                sync()
                found[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            if name == "flex attention":
                self.flex_s += time.monotonic() - started
        return found

    def inputs_of(self, case: Case, launches: int) -> dict[bool, tuple[Any, CallInputs]]:
        """Plan of KV copies and tensors, by whether KV is paged; both are cut from random numbers of their own."""
        return {paged: timer.fresh_inputs(case.shape, launches) for paged, timer in self.timers.items()}

    def warm(self, case: Case, flex: bool) -> None:
        """Run every arm of a shape once, so that what it compiles is on disk."""
        made = self.inputs_of(case, 1)
        contiguous, paged = made[False][1], made[True][1]
        for arm in self.own_arms(case, contiguous, paged):
            arm.run(0)
        self.peer_arms(case, contiguous, paged, flex)
        sync()

    def timed(self, arms: Sequence[Arm], plans: dict[bool, Any], expected: dict[bool, Any], rounds: int) -> list[Any]:
        """Latencies of right arms by round, interleaved; each is checked before and after."""
        import torch

        timer = self.timers[False].timer
        memory = torch.cuda.graph_pool_handle()
        graphs = []
        for arm in arms:
            arm.inputs.out.fill_(float("nan"))
            arm.run(0)
            arm.check(expected[arm.paged])
            graphs.append(timer.capture(BoundLaunch(None, arm.run), plans[arm.paged], memory))
        cells = timer.time(graphs, plans[False], rounds=rounds, rng=self.rng)
        for arm, graph in zip(arms, graphs, strict=True):
            arm.out.fill_(float("nan"))
            sync()
            timer.replay(graph)
            sync()
            arm.check(expected[arm.paged])
        return [cell.latencies_us for cell in cells]

    def case(self, case: Case, flex: bool) -> dict[str, Any]:
        """Latencies and error of every arm on a shape, and reasons of those that there are not."""
        made = self.inputs_of(case, launches_per_replay(case.shape))
        plans = {paged: plan for paged, (plan, _) in made.items()}
        contiguous, paged = made[False][1], made[True][1]
        expected = {False: reference(contiguous, 0), True: reference(paged, 0)}
        static = replace(contiguous, setting=STATIC, seqlens=None)
        modes = {"FA3": contiguous} if case.ragged else {"FA3": contiguous, "FA3 static": static}
        first = [(mode, n, self.fa3_arm("", inputs, n)) for mode, inputs in modes.items() for n in FA3_SPLITS]
        medians = [median(each) for each in self.timed([a for _, _, a in first], plans, expected, FIRST_ROUNDS)]
        arms = self.own_arms(case, contiguous, paged)
        best: dict[str, int] = {}
        for mode, inputs in modes.items():
            best[mode] = min((t, n) for (m, n, a), t in zip(first, medians, strict=True)
                             if m == mode and a.error <= MAX_RELATIVE_ERROR)[1]  # fmt: skip
            arms.append(self.fa3_arm(f"{mode} best", inputs, best[mode]))
        if not case.ragged:
            arms.append(self.fa3_arm("FA3 static stock", static, 0))
        peers = self.peer_arms(case, contiguous, paged, flex)
        refused = {name: arm for name, arm in peers.items() if isinstance(arm, str)}
        for name, arm in peers.items():
            if isinstance(arm, Arm):
                arm.check(expected[arm.paged])
                if arm.error <= MAX_RELATIVE_ERROR:
                    arms.append(arm)
                else:
                    refused[name] = f"its output is off by {arm.error:.3g}"
        latencies = self.timed(arms, plans, expected, ROUNDS)
        for timer in self.timers.values():
            timer.tidy()
        cells = {}
        for arm, each in zip(arms, latencies, strict=True):
            if arm.error <= MAX_RELATIVE_ERROR:
                cells[arm.name] = {"error": round(arm.error, 5), "latencies_us": [round(v, 3) for v in each]}
            else:
                refused[arm.name] = f"its output is off by {arm.error:.3g}"
        return {"case": case.id, "cells": cells, "refused": refused, "fa3_best": best}


def with_output(bound: BoundLaunch, inputs: CallInputs) -> Launch:
    """A launch of a provider, which writes into the output of its inputs."""

    def launch(copy: int) -> Any:
        bound.run(copy)
        return inputs.out

    return launch


def sync() -> None:
    """Wait for the GPU."""
    import torch

    torch.cuda.synchronize()


def warm_up(part: int) -> str:
    """Compile what every `WARMERS`-th shape launches; in a process of its own. Answers with what went wrong."""
    from evaluators.measure import shape_timer

    shape_timer.POOL_BYTES = 5 << 29  # one copy of the largest shape; a process holds two pools
    problems = set()
    try:
        bench = PeerBench()
        for index, case in list(enumerate(chosen_cases()))[part::WARMERS]:
            try:
                bench.warm(case, index < FLEX_SHAPES)
            except (RuntimeError, MemoryError, ValueError) as error:
                problems.add((str(error).splitlines() or [repr(error)])[0][:160])
    except Exception as error:  # the measurement compiles what is left
        problems.add(f"{type(error).__name__}: {error}"[:160])
    return "; ".join(sorted(problems))


def begin_flashinfer() -> subprocess.Popen[str] | None:
    """Compile FlashInfer's kernels beside all else, where it is installed."""
    if importlib.util.find_spec("flashinfer") is None:
        return None
    code = "import arms; module = arms.flashinfer_module(); module.is_compiled or module.build(verbose=False)"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Of what is compared."""
    import torch
    import triton

    found = {"torch": torch.__version__, "triton": triton.__version__, "cuDNN": str(torch.backends.cudnn.version())}
    for name in ("fa3-fwd", "vllm", "sglang", "flashinfer-python"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Compile, then measure until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200, help="from start to end, compilation included")
    parser.add_argument("-o", type=Path, required=True, help="folder of measured.jsonl; continued")
    options = parser.parse_args()
    started = time.monotonic()
    # Inherited: processes beside each other would start as many compilers each as there are cores.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    options.o.mkdir(parents=True, exist_ok=True)
    path = options.o / "measured.jsonl"
    head, done = finished_cases(path)
    flashinfer = begin_flashinfer()
    if head is None:
        with multiprocessing.get_context("spawn").Pool(WARMERS) as pool:
            problems = {p for p in pool.map(warm_up, range(WARMERS), chunksize=1) if p}
            pool.close()
            pool.join()
        print(f"compiled ahead in {time.monotonic() - started:.0f} s", *sorted(problems), sep="\n  ", flush=True)
    if flashinfer is not None:
        try:
            said = flashinfer.communicate(timeout=max(1.0, 0.6 * options.seconds - (time.monotonic() - started)))[1]
        except subprocess.TimeoutExpired:
            flashinfer.kill()
            said = "not compiled in time"
        print(f"FlashInfer after {time.monotonic() - started:.0f} s: {said[-600:].strip() or 'compiled'}", flush=True)
    bench = PeerBench()
    device = current_device()
    new = {
        "format": 1, "date": datetime.now(UTC).date().isoformat(), "device": device.as_dict(), "versions": versions(),
        "builds": {str(paged): provider.build() for paged, provider in bench.providers.items()}, "rounds": ROUNDS,
    }  # fmt: skip
    if head is None:
        path.write_text(json.dumps(new) + "\n", encoding="utf-8")
    elif different := [k for k in new if k != "date" and head.get(k) != new[k]]:
        sys.exit(f"{path} was measured with another {', '.join(different)}: choose another folder")
    end_torn_line(path)
    clocks = ClockLog(device.uuid)
    with path.open("a", encoding="utf-8") as out:
        for index, case in enumerate(chosen_cases()):
            if case.id in done:
                continue
            if time.monotonic() - started > options.seconds:
                break
            try:
                row = bench.case(case, index < FLEX_SHAPES)
            except (RuntimeError, MemoryError, ValueError) as error:
                sync()  # where the GPU is lost, the measurement ends here
                row = {"case": case.id, "failed": (str(error).splitlines() or [repr(error)])[0]}
            row["sm_clock_mhz"], row["slowed"] = clocks.sample()
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
            out.flush()
            print(f"{time.monotonic() - started:.0f} s, {case.id}: {len(row.get('cells', ()))} arms, "
                  f"{row.get('failed') or row['refused']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
