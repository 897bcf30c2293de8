"""Parts of a launch that prices add up, and the quantities that these are made of.

The catalogue says what can cost time in a kernel whose programs share out the blocks of each row: the longest program,
waves of programs, blocks per SM, partial results that are joined, programs that find no keys. It was written by a
language model; which parts a price has, and at what rates, is found by the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np

from evaluators.sandbox.queue_library import fastest_queue
from evolve.mutation.curves import Ints
from evolve.mutation.price_fit import Array

ALWAYS = ("1", "longest")
PARTS = (
    "splits",
    "splits * splits",
    "joined",
    "joined * waves",
    "joined * math.ceil(waves)",
    "load",
    "min(3, waves)",
    "max(longest, load)",
    "max(longest, 2 * load)",
    "max(longest, 3 * load)",
    "max(longest + 1, (load + waves) / 2)",
    "max(longest + 1, 1.5 * (load + waves))",
    "max(longest + 2, 1.5 * (load + 2 * waves))",
    "max(longest + 2, 2 * (load + 2 * waves))",
    "max(1, waves) * longest",
    "max(1, waves / 2) * longest",
    "math.ceil(waves) * longest",
    "min(4, math.ceil(waves)) * longest",
)
"""Parts of any launch, drawn besides `ALWAYS`.

Of a launch, `splits` are the programs of its longest row, of which `longest` blocks are the longest program's; `waves`
are programs per SM, `load` blocks per SM; `joined` is 1 where results of several programs are added up."""

UNEVEN_PARTS = ("idle", "end", "paired")
"""Parts of launches of uneven rows: programs without keys per SM; and when the last program ends, in blocks, if each SM
runs one or two at a time and each program takes a block more than it reads."""

MOST_WAVES = 6
"""Programs per SM beyond which launches are not tried."""


@dataclass(frozen=True, slots=True)
class Quantities:
    """Numbers of launches by the names that parts have for them; arrays of one shape."""

    longest: Array
    waves: Array
    load: Array
    splits: Array
    idle: Array
    end: Array
    paired: Array


def columns(quantities: Quantities, parts: Sequence[str]) -> Array:
    """Parts of each launch, along a new last axis."""
    names: dict[str, object] = {name: getattr(quantities, name) for name in quantities.__slots__}
    names |= {"joined": np.minimum(1.0, quantities.splits - 1), "math": SimpleNamespace(ceil=np.ceil)}
    names |= {"max": np.maximum, "min": np.minimum}
    shape = quantities.longest.shape
    # The texts above, as they stand in programs.
    found = [np.broadcast_to(eval(part, {"__builtins__": {}}, names), shape).astype(float) for part in parts]
    return np.stack(found, axis=-1)


_queue = cache(fastest_queue)


def even_launch(n_blocks: Ints, tiles: Ints, splits: Ints, num_sms: int) -> Quantities:
    """Launches that cut rows of `n_blocks` blocks into `splits` programs each, `tiles` rows times KV heads."""
    longest, waves, load = np.ceil(n_blocks / splits), tiles * splits / num_sms, tiles * n_blocks / num_sms
    none = np.zeros_like(waves)
    return Quantities(longest, waves, load, splits.astype(float), none, none, none)


Launch = tuple[float, float, float, float, float, float, float]


def uneven_launch(n_blocks: Sequence[int], heads: int, cap: int, blocks: int, num_sms: int) -> Launch:
    """The fields of `Quantities` of one launch of rows of `n_blocks` blocks.

    Args:
        n_blocks: of each row.
        heads: KV heads.
        cap: on the programs of a row.
        blocks: per split.
        num_sms: SMs of the GPU.
    """
    live = [min(cap, -(-n // blocks)) for n in n_blocks]
    splits, programs = max(live), sum(live) * heads
    longest = max(-(-n // p) for n, p in zip(n_blocks, live, strict=True))
    end = paired = 0
    if programs <= MOST_WAVES * num_sms:
        # As the kernel starts them: last splits first.
        order = [
            -(-n // p) for k in range(splits - 1, -1, -1) for n, p in zip(n_blocks, live, strict=True) if k < p
        ]  # fmt: skip
        end, paired = (_queue()(order, heads, 2**20, 1, sms, 2, False)[0] for sms in (num_sms, 2 * num_sms))
    idle = splits * len(n_blocks) * heads - programs
    load = sum(n_blocks) * heads / num_sms
    return longest, programs / num_sms, load, splits, idle / num_sms, end / 2, paired / 2


def rows_like(batch: int, longest: int, mean: int) -> list[float]:
    """Lengths with a given longest and mean, in keys: a power of their rank, longest first."""
    power = longest / max(1, mean) - 1
    return [longest * ((batch - k) / batch) ** power for k in range(batch)]
