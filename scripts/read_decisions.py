"""Read decisions back from the compiled libraries and compare them with the mirror (needs an H100 or H200).

Writes one JSON line per reading. `tests/fixtures/decisions.jsonl.xz` is its output, `wide_decisions.jsonl.xz` that of
`--wide 3000`: head ratios, head sizes, windows, softcaps, query tokens and element types of any model, and
`edge_decisions.jsonl.xz` that of `--edges 400`: batches to 1,100, padding, windows, odd head sizes. Where readings
differ from the mirror, they are shown by class with the tile that would explain them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.fa3 import dispatch
from evaluators.measure.compiled_decisions import (
    CAPS,
    MARGINS,
    CompiledDecision,
    edge_shape,
    mirror,
    read_capped_splits,
    read_live_splits,
    read_metadata,
    read_num_splits,
    reading_setting,
    wide_shape,
)
from evaluators.measure.providers import Provider, ProviderUnavailable, open_provider
from evaluators.measure.providers.memory import KvPool

PROVIDERS = ("fa3_fwd", "vllm", "upstream")
TILES = [(m, n) for n in range(48, 257, 16) for m in (64, 128, 192)]
FORWARD_KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "head_dim 16": {"head_dim": 16}, "head_dim 72": {"head_dim": 72}, "head_dim 120": {"head_dim": 120},
    "head_dim 136": {"head_dim": 136},
    "head_dim 64": {"head_dim": 64}, "head_dim 96": {"head_dim": 96}, "head_dim 192": {"head_dim": 192},
    "head_dim 256": {"head_dim": 256}, "head_dim 192/128": {"head_dim": 192, "head_dim_v": 128},
    "head_dim 64/256": {"head_dim": 64, "head_dim_v": 256}, "head_dim 64/512": {"head_dim": 64, "head_dim_v": 512},
    "window": {"window": 200}, "softcap": {"softcap": True}, "4 tokens": {"seqlen_q": 4},
    "ratio 71": {"num_heads_q": 71},
}  # fmt: skip
"""Calls that a build may lack a kernel for, as what differs from a plain one."""


def read_grid(provider: Provider, pool: KvPool, count: int) -> Iterator[CompiledDecision]:
    """Decisions on the heads and sizes that were recorded."""
    yield from read_metadata(provider, reading_setting(f"{provider.name}-metadata"), count=count, seed=2)
    if provider.name != "vllm":
        for mode in ("static", "varlen"):
            yield from read_num_splits(
                provider, reading_setting(f"{provider.name}-{mode}"), pool, count=count // 2, seed=3
            )


def read_calls(
    provider: Provider,
    count: int,
    refused: Counter[str],
    *,
    seed: int,
    fp8: Callable[[int], bool],
    draw: Callable[..., DecodeShape],
    read: Callable[[int, Setting, DecodeShape, Decision], CompiledDecision | None],
) -> Iterator[CompiledDecision]:
    """Decisions on drawn calls, in fp8 where `fp8` says so; what the library refuses is counted by its reason."""
    rng = random.Random(seed)
    for index in range(count):
        dtype = "fp8" if fp8(index) else "bf16"
        setting = reading_setting(f"{provider.name}-metadata" + ("-fp8" if dtype == "fp8" else ""))
        shape = draw(rng, dtype=dtype)
        decision = Decision(rng.choice(CAPS), sm_margin=rng.choice(MARGINS))
        try:
            found = read(index, setting, shape, decision)
        except (RuntimeError, TypeError, ValueError) as error:
            refused[refusal(shape, setting, error)] += 1
            continue
        if found is not None:
            yield found


def read_wide(provider: Provider, count: int, refused: Counter[str]) -> Iterator[CompiledDecision]:
    """Live splits of calls of any model, in bf16 and fp8."""

    def read(_: int, setting: Setting, shape: DecodeShape, decision: Decision) -> CompiledDecision | None:
        dispatch.check_call(shape, setting)
        return read_live_splits(provider, setting, shape, decision)

    return read_calls(provider, count, refused, seed=5, fp8=lambda index: index % 3 == 2, draw=wide_shape, read=read)


def read_edges(
    provider: Provider, pools: dict[str, KvPool], count: int, refused: Counter[str]
) -> Iterator[CompiledDecision]:
    """Live splits, and num_splits of forward calls, of `count` calls each at the edges: see `edge_shape`."""

    def read(index: int, setting: Setting, shape: DecodeShape, decision: Decision) -> CompiledDecision | None:
        if index % 2:
            return read_capped_splits(provider, setting, pools[setting.dtype], shape, decision)
        return read_live_splits(provider, setting, shape, decision)

    return read_calls(
        provider, 2 * count, refused, seed=7, fp8=lambda index: index % 10 >= 8, draw=edge_shape, read=read
    )


def refusal(shape: DecodeShape, setting: Setting, error: Exception) -> str:
    """The class of a call and the first line of why a library does not take it."""
    return f"{class_of(shape, setting)}: {str(error).splitlines()[0][:110]}"


def class_of(shape: DecodeShape, setting: Setting) -> str:
    """Class of a call: the properties that its tile depends on, as text."""
    size = f"{shape.head_dim}" + (f"/{shape.head_dim_v}" if shape.head_dim_v else "")
    local = dispatch.is_local(shape, setting)
    parts = [
        setting.provider,
        setting.dtype,
        f"d{size}",
        "window" if local else f"q{'1' if shape.seqlen_q == 1 else '>1'}",
    ]
    if shape.window and not local:
        parts.append("wide-window")
    if shape.softcap:
        parts.append("softcap")
    if setting.provider == "vllm" and shape.seqlen_q * shape.qheads_per_kvhead <= 64:
        parts.append("rows<=64")
    return " ".join(parts)


def explain(readings: Sequence[CompiledDecision], gpu: Gpu, block_m: int) -> str:
    """The tile, and whether windows shorten what the heuristic counts, that explain most readings of a class.

    Tiles with the mirror's rows `block_m` go first, since few query rows fit any.
    """
    best = (0, "")
    loaded = dispatch.seqlen_k_loaded
    for tile in sorted(TILES, key=lambda tile: tile[0] != block_m):
        for shortens in (True, False):
            length = loaded if shortens else lambda shape, setting, _: dispatch.capacity(shape, setting)
            with (
                mock.patch.object(dispatch, "tile_size", return_value=tile),
                mock.patch.object(dispatch, "seqlen_k_loaded", length),
            ):
                dispatch.shape_view.cache_clear()
                dispatch.blocks_of_sequences.cache_clear()
                fits = sum(mirror(r, gpu) == r.compiled for r in readings)
            text = f"{tile[0]} x {tile[1]}{'' if shortens else ', window not subtracted'}: {fits} of {len(readings)}"
            best = max(best, (fits, text), key=lambda found: found[0])
    dispatch.shape_view.cache_clear()
    dispatch.blocks_of_sequences.cache_clear()
    return best[1]


def report_differences(readings: Sequence[CompiledDecision], gpu: Gpu, shown: int) -> int:
    """Print agreement by class and examples of what differs; returns how many do."""
    classes: dict[str, list[CompiledDecision]] = defaultdict(list)
    for r in readings:
        classes[class_of(r.shape, reading_setting(r.setting))].append(r)
    wrong = 0
    for name, members in sorted(classes.items()):
        differ = [r for r in members if mirror(r, gpu) != r.compiled]
        wrong += len(differ)
        if differ:
            tile = dispatch.tile_size(members[0].shape, reading_setting(members[0].setting))
            print(
                f"{name}: {len(differ)} of {len(members)} differ; mirror {tile[0]} x {tile[1]}, "
                f"best {explain(members, gpu, tile[0])}"
            )
            for r in differ[:shown]:
                s = r.shape
                print(f"    b{s.batch} k{s.seqlen_k} h{s.num_heads_q}x{s.num_heads_kv} q{s.seqlen_q} w{s.window} "
                    f"asked {r.num_splits} margin {r.sm_margin}: compiled {r.compiled[:6]}, mirror "
                    f"{mirror(r, gpu)[:6]}, keys {s.seqlens[:6]}")  # fmt: skip
    return wrong


def probe_forward(provider: Provider, pools: dict[str, KvPool]) -> None:
    """Print which kinds of calls the build has a kernel for, and the error of its output against the reference."""
    import torch

    from evaluators.measure.shape_timer import reference, relative_error

    gpu = Gpu(num_sms=torch.cuda.get_device_properties(0).multi_processor_count)
    for dtype, pool in pools.items():
        setting = reading_setting(f"{provider.name}-metadata" + ("-fp8" if dtype == "fp8" else ""))
        for kind, changes in FORWARD_KINDS.items():
            shape = replace(DecodeShape(3, 3000, 8, 1), **changes)
            try:
                inputs = provider.make_inputs(shape, setting, copies=1, pool=pool)
                errors = []
                for num_splits in (1, 4):
                    provider.bind(inputs, Decision(num_splits, blocks_per_split=0), gpu).run(0)
                    torch.cuda.synchronize()
                    errors.append(float(relative_error(inputs.out, reference(inputs, 0))))
                unsplit, split = errors
                print(f"forward {provider.name} {dtype} {kind}: error {unsplit:.2g} unsplit, {split:.2g} in 4 splits")
            except (RuntimeError, TypeError, ValueError, ProviderUnavailable) as error:
                print(f"forward {provider.name} {dtype} {kind}: refused: {str(error).splitlines()[0][:110]}")


def main() -> int:
    """Read, compare, write; exit code 1 when any decision differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new file, .jsonl.xz")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--wide", type=int, default=0, metavar="N", help="instead: N calls of any model per provider")
    parser.add_argument("--edges", type=int, default=0, metavar="N", help="instead: N calls of each kind per provider")
    parser.add_argument("--shown", type=int, default=2, help="examples per class that differs")
    options = parser.parse_args()
    import torch

    started = time.monotonic()
    gpu = Gpu(num_sms=torch.cuda.get_device_properties(0).multi_processor_count)
    readings: list[CompiledDecision] = []
    refused: Counter[str] = Counter()
    opened: list[Provider] = []
    for name in PROVIDERS:
        try:
            opened.append(open_provider(name))
        except ProviderUnavailable as error:
            print(f"{name}: not read: {error}", file=sys.stderr)
    pool = KvPool((6 << 30) // 2, seed=1)
    pools = {"bf16": pool, "fp8": KvPool(3 << 30, seed=1, dtype="fp8")} if options.wide or options.edges else {}
    with lzma.open(options.output, "wb") as out:
        for provider in opened:
            if options.edges:
                found = read_edges(provider, pools, options.edges, refused)
            elif options.wide:
                found = read_wide(provider, options.wide, refused)
            else:
                found = read_grid(provider, pool, options.count)
            for reading in found:
                readings.append(reading)
                out.write(json.dumps(reading.as_json(), separators=(",", ":")).encode() + b"\n")
    if options.wide or options.edges:
        for provider in opened:
            probe_forward(provider, pools)
    for reason, count in refused.most_common(20):
        print(f"refused {count} times: {reason}")
    wrong = report_differences(readings, gpu, options.shown)
    for setting_name, count in Counter(r.setting for r in readings).items():
        print(f"{setting_name}: {count} readings")
    print(
        f"{len(readings)} readings, {wrong} differ, {sum(refused.values())} refused, {time.monotonic() - started:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
