"""Time per output token of the installed vLLM with a plugin off and on: one engine per arm, steps in ABBA blocks.

    python scripts/engine_tpot.py --model llama31-70b-tp8 --seconds 420 -o FOLDER

Every arm is an engine of its own process with random weights, all of them on one GPU at once, so that each keeps the
CUDA graphs that it captured. For each shape every engine gets the same prompts; then the engines take turns of a few
decode steps, forwards and backwards (A B C, C B A), and only one of them works at any time. `stock` and `stock-again`
are the same engine twice: what they differ by is the resolution of the method (A/A), captures and placement included.

Arms: `stock...` has EVOSPLIT_PLUGIN=0, `plugin` has 1, `plugin@2048` decides schedules for 2,048 keys, `fa3@8` is
stock with 8 for vLLM's constant of 32 splits, `build...` is stock with another build of FA3, the file at `--library`.
The first is the baseline. Writes steps.jsonl as it goes (every step's time), result.csv, card.json and a log per arm.
Needs a GPU and vLLM; docs/tpot-vllm.md says how to do the same with `vllm bench`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESERVE = 512
"""Tokens that a sequence may grow by while its shape is measured."""

BLOCK_STEPS, SKIPPED = 8, 2
"""Steps of a turn, and how many of its first are dropped: caches and the asynchronous scheduler warm up again."""

MAX_ROUNDS = 24
RESAMPLES = 2000
LEAD_S = 15.0
"""No shape is begun this long before the end: three engines compute 131,072 keys of prompts in less."""

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 128, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "hidden_act": "silu", "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model, or what one GPU holds of it; the all-reduces of tensor parallelism are left out.

    Attributes:
        config: its config.json.
        kv_tokens: keys that each engine has room for, with three engines in 80 GB.
    """

    config: dict[str, Any]
    kv_tokens: int

    @property
    def kv_bytes(self) -> int:
        """Of that room."""
        c = self.config
        return self.kv_tokens * c["num_hidden_layers"] * c["num_key_value_heads"] * 2 * 128 * 2


MODELS = {
    "llama31-70b-tp8": Model({**LLAMA, "hidden_size": 8192, "intermediate_size": 3584, "num_hidden_layers": 80,
                              "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 16032}, 131072),
    "llama31-8b": Model({**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}, 49152),
    "tiny": Model({**LLAMA, "hidden_size": 1024, "intermediate_size": 256, "num_hidden_layers": 2,
                   "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 1024}, 131072),
}  # fmt: skip

BATCHES = (1, 2, 4, 8, 16, 32)
KEYS = (256, 512, 1024, 2048, 4096, 8192)
RAGGED = ((4, 1024), (8, 2048), (16, 1024), (32, 512), (8, 512), (16, 2048))
"""(batch, median keys) of log-normal batches."""


def shapes_of(model: Model, batches: Sequence[int], keys: Sequence[int], seed: int) -> list[tuple[str, list[int]]]:
    """Names and lengths of the shapes that fit, in random order."""
    rng = random.Random(seed)
    found = [(f"u-b{b}-k{k}", [k] * b) for b in batches for k in keys]
    for batch, median in RAGGED:
        lengths = [min(max(keys), max(16, round(median * math.exp(rng.gauss(0, 0.8))))) for _ in range(batch)]
        if batch <= max(batches):
            found.append((f"r-b{batch}-k{median}", lengths))
    room = model.kv_tokens
    found = [(name, lengths) for name, lengths in found if sum(lengths) + len(lengths) * RESERVE <= room]
    rng.shuffle(found)
    return found


class ArmError(RuntimeError):
    """An engine answered with an error, or not at all."""


@dataclass
class Arm:
    """An engine's process as its parent sees it."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Let the engine do something, and wait.

        Raises:
            ArmError: it could not, or its process ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": operation, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ArmError(f"{self.name}: its process ended, see {self.log}") from error
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ArmError(f"{self.name}: its process ended, see {self.log}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise ArmError(f"{self.name}: {found['error']}")
        return found


def meaning_of(name: str) -> tuple[dict[str, str], dict[str, int]]:
    """Environment of an arm and its options of vLLM's attention, by its name."""
    kind, _, number = name.partition("@")
    known = kind.startswith(("stock", "build")) if not number else kind in ("plugin", "fa3") and number.isdecimal()
    if not known and name != "plugin":
        raise SystemExit(f"an arm is stock, stock-..., build, build-..., plugin, plugin@KEYS or fa3@SPLITS, not {name}")
    changes = {"EVOSPLIT_PLUGIN": "1" if kind == "plugin" else "0"}
    if number and kind == "plugin":
        changes["EVOSPLIT_PLUGIN_SEQLEN"] = number
    return changes, {"flash_attn_max_num_splits_for_cuda_graph": int(number)} if kind == "fa3" else {}


def start(
    name: str, folder: Path, options: dict[str, Any], domain: str, library: Path | None, command: Sequence[str]
) -> Arm:
    """Start an engine; its first answer is its facts, once it is ready. `library` is for arms that are a build."""
    log = folder / f"{name.replace('@', '-')}.log"
    changes, attention = meaning_of(name)
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "EVOSPLIT_PLUGIN_DOMAIN": domain, **changes,
    }  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environment
    )
    arm = Arm(name, process, log)
    assert process.stdin is not None
    own = str(library.resolve()) if library is not None and name.startswith("build") else ""
    process.stdin.write(json.dumps({**options, "attention": attention, "library": own}) + "\n")
    process.stdin.flush()
    return arm


def turns(arms: Sequence[Arm], rng: random.Random) -> Iterator[Arm]:
    """One round: all arms in random order, and back."""
    order = list(arms)
    rng.shuffle(order)
    yield from (*order, *reversed(order))


def measure(
    arms: Sequence[Arm], lengths: list[int], rng: random.Random, seconds: float, deadline: float
) -> list[dict[str, list[float]]]:
    """Rounds of a shape: per arm its steps in seconds, two turns each; the arms end with no requests.

    `seconds` are those of the steps, without prefill.

    Raises:
        ArmError: an engine failed.
    """
    rounds: list[dict[str, list[float]]] = []
    try:
        for arm in arms:
            arm.ask("begin", lengths=lengths)
        until = min(time.monotonic() + seconds, deadline)
        while len(rounds) < MAX_ROUNDS and time.monotonic() < until:
            found: dict[str, list[float]] = {arm.name: [] for arm in arms}
            for arm in turns(arms, rng):
                found[arm.name] += arm.ask("steps", count=BLOCK_STEPS)["seconds"][SKIPPED:]
            rounds.append(found)
    finally:
        for arm in arms:
            if arm.process.poll() is None:
                arm.ask("end")
    return rounds


def interval(logs: Sequence[float]) -> tuple[float, float]:
    """95% of the medians of resampled log ratios."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(logs, k=len(logs))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def compared(rounds: Sequence[dict[str, list[float]]], baseline: str, other: str) -> tuple[float, float, float]:
    """Speed-up over the baseline: median over rounds, and its interval."""
    logs = [math.log(statistics.median(r[baseline]) / statistics.median(r[other])) for r in rounds]
    low, high = interval(logs)
    return math.exp(statistics.median(logs)), math.exp(low), math.exp(high)


def probe_differences(arms: Sequence[Arm]) -> dict[str, Any]:
    """Differences of answers to the probe from the baseline's, while tokens still agree."""
    answers = {arm.name: arm.ask("probe")["probe"] for arm in arms}
    base = answers[arms[0].name]
    told: dict[str, Any] = {"logprobs": sorted(round(log, 3) for rows in base.values() for _, log in rows)}
    for arm in arms[1:]:
        agreeing, differences = 0, [0.0]
        for name, rows in base.items():
            for (token, log), (other_token, other_log) in zip(rows, answers[arm.name][name], strict=True):
                if token != other_token:
                    break
                agreeing += 1
                differences.append(abs(log - other_log))
        total = sum(len(rows) for rows in base.values())
        # NaN is larger than all.
        largest = math.nan if any(map(math.isnan, differences)) else max(differences)
        told[arm.name] = {"tokens_equal": agreeing, "of": total, "largest_logprob_difference": largest}
    return told


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--model", choices=sorted(MODELS), default="llama31-70b-tp8")
    parser.add_argument("--arms", nargs="+", default=["stock", "plugin", "stock-again"])
    parser.add_argument("--library", type=Path, help="the build of FA3 that arms named build... load")
    parser.add_argument("--domain", choices=("measured", "correct"), help="[default: what the model needs]")
    parser.add_argument("--seconds", type=float, default=420.0, help="of all, engines' starts included")
    parser.add_argument("--shape-seconds", type=float, default=4.0, help="of steps, per shape")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--keys", nargs="+", type=int, default=list(KEYS))
    parser.add_argument("--kv-tokens", type=int, help="keys that each engine has room for")
    parser.add_argument("--cudagraph-mode", default="FULL_DECODE_ONLY")
    parser.add_argument("--compile", type=int, default=0, help="vLLM's compilation mode; PIECEWISE graphs need 3")
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="more arguments of the engine")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.output is None:
        parser.error("-o FOLDER says where results go")
    if (options.output / "steps.jsonl").exists():
        parser.error(f"{options.output} holds results already")
    for name in options.arms:
        meaning_of(name)
    if any(name.startswith("build") for name in options.arms) and not (options.library and options.library.is_file()):
        parser.error("an arm named build needs --library FILE, a _vllm_fa3_C.abi3.so")
    try:
        run(options, [sys.executable, str(Path(__file__).with_name("engine_arm.py"))])
    except ArmError as error:
        raise SystemExit(
            f"error: {error}; an engine needs a GPU and vLLM ({options.output}/*.log has what it said)"
        ) from None


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Start the engines, measure shapes until time is up, write and print."""
    begun = time.monotonic()
    deadline = begun + options.seconds
    folder: Path = options.output
    model = MODELS[options.model]
    if options.kv_tokens:
        model = Model(model.config, options.kv_tokens)
    made = folder / "model"
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(model.config, indent=1))
    group = model.config["num_attention_heads"] // model.config["num_key_value_heads"]
    domain = options.domain or ("measured" if group == 8 else "correct")
    engine = {
        "compilation_config": {"mode": options.compile, "cudagraph_mode": options.cudagraph_mode,
                               "cudagraph_capture_sizes": sorted(options.batches)},
        **options.engine,
    }  # fmt: skip
    for_engine = {"model": str(made), "max_keys": max(options.keys), "max_batch": max(options.batches),
                  "reserve": RESERVE,
                  "kv_bytes": model.kv_bytes, "vocabulary": model.config["vocab_size"], "engine": engine}  # fmt: skip
    rng = random.Random(options.seed)
    arms: list[Arm] = []
    given = {name: str(value) for name, value in vars(options).items() if name != "output"}
    card: dict[str, Any] = {"baseline": options.arms[0], "options": given,
                            "domain": domain, "model": model.config, "kv_tokens": model.kv_tokens,
                            "skipped": {}}  # fmt: skip
    results: list[dict[str, Any]] = []
    try:
        for name in options.arms:  # all at once: loading takes longer than everything else
            arms.append(start(name, folder, for_engine, domain, options.library, command))
        for arm in arms:
            arm.facts = arm.answer()
            print(f"{time.monotonic() - begun:5.0f} s  {arm.name} is ready: {arm.facts}", file=sys.stderr, flush=True)
        card |= {"engines": {a.name: a.facts for a in arms}, "probe": probe_differences(arms)}
        print(f"probe: {card['probe']}", file=sys.stderr, flush=True)
        with (folder / "steps.jsonl").open("w") as steps:
            for shape, lengths in shapes_of(model, options.batches, options.keys, options.seed):
                if time.monotonic() > deadline - LEAD_S:
                    card["skipped"][shape] = "no time left"
                    continue
                try:
                    rounds = measure(arms, lengths, rng, options.shape_seconds, deadline)
                except ArmError as error:
                    card["skipped"][shape] = str(error)
                    print(f"{shape}: {error}", file=sys.stderr, flush=True)
                    if any(a.process.poll() is not None for a in arms):
                        break
                    continue
                steps_us = [{a: [round(1e6 * s, 1) for s in times] for a, times in r.items()} for r in rounds]
                steps.write(json.dumps({"shape": shape, "lengths": lengths, "steps_us": steps_us}) + "\n")
                steps.flush()
                results += result_rows(shape, lengths, rounds, options.arms)
    finally:
        for arm in arms:
            arm.process.kill()
        card["plugin_log"] = {a.name: [line[line.index("evosplit:"):].strip() for line in
                                       a.log.read_text(errors="replace").splitlines() if "evosplit:" in line][:8]
                              for a in arms}  # fmt: skip
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        write_results(folder / "result.csv", results)
    print_results(results)


def result_rows(
    shape: str, lengths: list[int], rounds: Sequence[dict[str, list[float]]], arms: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per arm but the baseline."""
    if not rounds:
        return []
    medians = {arm: 1e3 * statistics.median(s for r in rounds for s in r[arm]) for arm in arms}
    rows = []
    for arm in arms[1:]:
        ratio, low, high = compared(rounds, arms[0], arm)
        rows.append({
            "shape": shape, "batch": len(lengths), "keys": sum(lengths), "arm": arm, "rounds": len(rounds),
            "baseline_ms": round(medians[arms[0]], 4), "arm_ms": round(medians[arm], 4), "token_x": round(ratio, 4),
            "low": round(low, 4), "high": round(high, 4),
        })  # fmt: skip
    return rows


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """One row per shape and arm."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]) if results else ["shape"])
        writer.writeheader()
        writer.writerows(results)


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """The table, and a line per arm."""
    for row in sorted(results, key=lambda r: (r["arm"], r["shape"])):
        print(f"{row['arm']:14} {row['shape']:14} {row['baseline_ms']:8.3f} -> {row['arm_ms']:8.3f} ms a step  "
              f"{row['token_x']:.4f}x [{row['low']:.4f}, {row['high']:.4f}]  {row['rounds']} rounds")  # fmt: skip
    for arm in dict.fromkeys(r["arm"] for r in results):
        ratios = [r["token_x"] for r in results if r["arm"] == arm]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"{arm}: {mean:.4f}x over {len(ratios)} shapes, {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
