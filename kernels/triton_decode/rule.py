"""A searched rule as servers ask it: the schedule of a call, and blocks per split by the lengths of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class Call:
    """A decode call as the host knows it when it captures a CUDA graph.

    Attributes:
        batch: sequences in the call.
        seqlen_k: keys that a sequence may have.
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU.
        head_dim: size of one head.
        seqlen_q: query tokens per sequence.
        page_size: keys per page; 0 for contiguous KV.
        num_sms: multiprocessors of the GPU.
        gpu: its name, as `torch.cuda.get_device_name()` gives it.
    """

    batch: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int = 128
    seqlen_q: int = 1
    page_size: int = 0
    num_sms: int = 132
    gpu: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """The functions of a program.

    Attributes:
        schedule: (num_splits, block_n, num_warps, num_stages) of a call; 0 splits leave it to the stock kernel.
        blocks_per_split: blocks per split of a step, by its lengths; None where 1 always does.
        gpus: names of the GPUs that it was measured on; any if empty.
        reads_lengths: True if `schedule` chooses by the longest and the mean live length, too.
    """

    schedule: Callable[[Any, Any], tuple[int, int, int, int]]
    blocks_per_split: Callable[[Any, Any], int] | None = None
    gpus: tuple[str, ...] = ()
    reads_lengths: bool = False

    def schedule_for(self, call: Call, seqlens: Sequence[int] = ()) -> Schedule | None:
        """The schedule of a call; None leaves it to the stock kernel, as on GPUs that were not measured.

        Args:
            call: the call.
            seqlens: live keys per sequence, where they are known; else blocks per split stays 1.

        Raises:
            ValueError: no lengths for a rule that reads them.
        """
        if self.gpus and call.gpu not in self.gpus:
            return None
        live: dict[str, int] = {}
        if self.reads_lengths:
            if not seqlens:
                raise ValueError("this rule chooses a schedule by live lengths: pass seqlens, outside of CUDA graphs")
            live = {"max_live_seqlen": max(seqlens), "mean_live_seqlen": sum(seqlens) // len(seqlens)}
        page = max(1, call.page_size)
        capacity = -(-call.seqlen_k // page) * page
        shape = SimpleNamespace(
            batch=call.batch, seqlen_q=call.seqlen_q, seqlen_k=capacity, num_heads_q=call.num_heads_q,
            num_heads_kv=call.num_heads_kv, qheads_per_kvhead=call.num_heads_q // call.num_heads_kv,
            head_dim=call.head_dim, page_size=call.page_size, **live,
        )  # fmt: skip
        num_splits, block_n, num_warps, num_stages = self.schedule(shape, _gpu(call))
        if num_splits == 0:
            return None
        # What no sequence has blocks for need not start.
        num_splits = min(num_splits, max(1, -(-capacity // block_n)))
        found = Schedule(num_splits, 1, block_n, num_warps, num_stages)
        if not seqlens or self.blocks_per_split is None or num_splits == 1:
            return found
        blocks = self.blocks_of(call, found, [max(1, -(-keys // block_n)) for keys in seqlens])
        return replace(found, blocks_per_split=blocks)

    def blocks_of(self, call: Call, schedule: Schedule, n_blocks: Sequence[int]) -> int:
        """Blocks per split of a step, at least 1.

        Args:
            call: as in `schedule_for`.
            schedule: its answer.
            n_blocks: blocks of `schedule.block_n` keys per sequence, at least 1 each.
        """
        if self.blocks_per_split is None:
            return 1
        work = SimpleNamespace(
            batch=call.batch, num_heads_kv=call.num_heads_kv, qheads_per_kvhead=call.num_heads_q // call.num_heads_kv,
            head_dim=call.head_dim, block_n=schedule.block_n, num_splits=schedule.num_splits, n_blocks=tuple(n_blocks),
            total_n_blocks=sum(n_blocks), max_n_blocks=max(n_blocks), min_n_blocks=min(n_blocks),
        )  # fmt: skip
        return max(1, self.blocks_per_split(work, _gpu(call)))

    def blocks_by_length(self, call: Call, schedule: Schedule) -> Callable[[int, int], int] | None:
        """The rule by mean and greatest number of blocks, for `by_length.answers_of`; None where 1 always does.

        It is called with one sequence of the greatest length among equal others, which is exact for even batches and
        for rules that read only the total and the greatest.
        """
        if self.blocks_per_split is None or schedule.num_splits == 1:
            return None
        others = call.batch - 1

        def blocks(mean: int, greatest: int) -> int:
            rest = max(mean * call.batch - greatest, others)
            n_blocks = [greatest, *(rest // others + (i < rest % others) for i in range(others))]
            return self.blocks_of(call, schedule, n_blocks)

        return blocks


def _gpu(call: Call) -> SimpleNamespace:
    return SimpleNamespace(num_sms=call.num_sms, l2_bytes=50 * 1024 * 1024, max_sm_margin=call.num_sms - 1)
