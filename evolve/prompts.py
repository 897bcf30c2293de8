"""Prompts: the task, the language, the parent with its scores and feedback, failures, inspirations."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.evaluation import Evaluation
from evaluators.feedback import render
from evaluators.language import describe
from evolve.proposers.base import ProgramRecord

MAX_FAILURES = 4
MAX_CHARS = 18_000
"""Of a whole prompt: about 6,000 tokens. The parent is always shown whole, at the expense of what follows it."""
MAX_SOURCE_CHARS = 6000
"""Of an inspiration."""
MIN_SOURCE_CHARS = 500
"""An inspiration cut shorter than this says nothing."""
FRAME_CHARS = 250
"""Around a source: its scores, fences, separators."""

TASK = """You improve a scheduling heuristic for FlashAttention-3 decode on an H100 (132 SMs).
A decode call is batch x num_heads_kv tiles; the KV of each is a row of blocks. num_splits cuts rows so that more SMs
have work; each split costs a share of a combine kernel. schedule(shape, gpu) returns (num_splits, pack_gqa, sm_margin):
num_splits 1..128 (0: FA3's own), pack_gqa None, sm_margin 0. In metadata mode num_splits only caps the splits per
sequence, and blocks_per_split(work, gpu) sets how many KV blocks one split takes: a sequence of n blocks gets
max(1, min(ceil(n / blocks_per_split), num_splits)) splits. num_splits 1 is another kernel without a combine step.
schedule sees the capacity seqlen_k, not live lengths; work sees the batch as it is. FA3's own formula overshoots one
wave of the SMs by a few CTAs again and again.
The score is the weighted geometric mean speed-up over the baseline on measured latencies, less a penalty for every
shape that becomes slower by more than 1%. Write rules that hold between the measured shapes, too: other shapes decide
who wins. Keep it short and readable: kernel maintainers will review it.

The language:
"""

DIFF_FORMAT = """Answer with one or more blocks in exactly this form, lines copied exactly from the program:
<<<<<<< SEARCH
lines to replace
=======
new lines
>>>>>>> REPLACE"""

REWRITE_FORMAT = "Answer with the whole new program in one ```python block. Keep the EVOLVE-BLOCK markers."


def system_prompt() -> str:
    """Task and language; the same for every proposal."""
    return TASK + describe()


def _scores(evaluation: Evaluation) -> str:
    train = evaluation.train
    if train is None:
        return "not scored"
    return (
        f"score {train.score:.4f}, speed-up {train.geomean_speedup:.4f}x, {100 * train.oracle_share:.1f}% of what is "
        f"possible, {train.regressions} regressions, worst shape {train.worst_speedup:.3f}x"
    )


def user_prompt(
    parent: ProgramRecord, inspirations: Sequence[ProgramRecord], failures: Sequence[str], *, diff: bool
) -> str:
    """Everything that differs between proposals."""
    parts = [
        f"The program to improve ({_scores(parent.evaluation)}):\n```python\n{parent.source}```",
        render(parent.evaluation.feedback),
    ]
    if failures:
        lines = "\n".join(f"- {text}" for text in failures[-MAX_FAILURES:])
        parts.append(f"Recent attempts that failed:\n{lines}")
    how = DIFF_FORMAT if diff else REWRITE_FORMAT
    room = MAX_CHARS - len(system_prompt()) - len(how) - sum(map(len, parts))
    for other in inspirations:
        source = _cut(other.source, min(MAX_SOURCE_CHARS, room // len(inspirations) - FRAME_CHARS))
        if source:
            parts.append(f"Another program ({_scores(other.evaluation)}):\n```python\n{source}```")
    parts.append(how)
    return "\n\n".join(part for part in parts if part)


def _cut(source: str, limit: int) -> str:
    """The whole source, its first lines, or nothing when too little would be left."""
    if len(source) <= limit:
        return source
    if limit < MIN_SOURCE_CHARS:
        return ""
    return source[:limit].rpartition("\n")[0] + "\n# ... cut\n"
