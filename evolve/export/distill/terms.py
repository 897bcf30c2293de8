"""Terms of distilled rules: inputs that they bound, and answers that they give.

Every term exists twice, as text in the heuristic language and as arithmetic over numpy arrays, so that thousands of
rules can be tried at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evaluators.data.contract import MAX_SPLITS

Columns = Mapping[str, Any]
"""Arrays of one shape by name of the input; `num_sms` is a number."""

OPEN = 1 << 62
"""Upper bound of an unbounded range."""

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32)
"""Numbers of splits that rules try."""

BLOCKS_EACH = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24)
"""KV blocks per split that rules try."""

WAVES = (1, 2, 3)
"""Waves of CTAs that rules try to fill."""


@dataclass(frozen=True, slots=True)
class RuleTerm:
    """A number that a rule may bound.

    Attributes:
        text: text in the heuristic language.
        values: the same number over arrays.
        tile_level: True if num_splits_heuristic has its inputs; otherwise its callers change, too.
        flag: True for a boolean.
    """

    text: str
    values: Callable[[Columns], Any]
    tile_level: bool
    flag: bool = False


def _tiles(c: Columns) -> Any:
    return c["batch"] * c["num_heads_kv"]


TILES = "shape.batch * shape.num_heads_kv"
"""Tiles of a decode call in every mode; total_mblocks leaves the batch out in varlen and metadata mode."""

TERMS = (
    RuleTerm("shape.num_n_blocks", lambda c: c["num_n_blocks"], True),
    RuleTerm("shape.total_mblocks", lambda c: c["total_mblocks"], True),
    RuleTerm("shape.total_mblocks * shape.num_n_blocks", lambda c: c["total_mblocks"] * c["num_n_blocks"], True),
    RuleTerm("shape.varlen", lambda c: c["varlen"], False, flag=True),
    RuleTerm("shape.batch", lambda c: c["batch"], False),
    RuleTerm("shape.num_heads_kv", lambda c: c["num_heads_kv"], False),
    RuleTerm(TILES, _tiles, False),
    RuleTerm(f"{TILES} * shape.num_n_blocks", lambda c: _tiles(c) * c["num_n_blocks"], False),
)
"""Terms of rules. Of the seven tile-level inputs, size_one_kv_head would distinguish lengths within one block, as the
kernel hardly does; num_m_blocks, is_causal_or_local and max_splits are constant over the recorded shapes of a target.
Rules hold for one query tile, as in the recordings."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A number of splits.

    Attributes:
        text: text in the heuristic language.
        values: the same number over arrays.
        tile_level: as in `RuleTerm`.
        effort: effort to read it: 0 for a constant.
        at_most_blocks: constant that num_n_blocks caps; 0 for other forms.
    """

    text: str
    values: Callable[[Columns], Any]
    tile_level: bool = True
    effort: int = 0
    at_most_blocks: int = 0


def answers() -> tuple[Answer, ...]:
    """Constants, constants no larger than the blocks, blocks per split, and splits that fill waves of SMs."""
    import numpy as np

    found = [Answer(str(k), lambda c, k=k: np.full_like(c["num_n_blocks"], k)) for k in COUNTS]  # type: ignore[misc]
    found += [
        Answer(f"min(shape.num_n_blocks, {k})", lambda c, k=k: np.minimum(c["num_n_blocks"], k),  # type: ignore[misc]
               effort=1, at_most_blocks=k)
        for k in COUNTS if k > 1
    ]  # fmt: skip
    found += [
        Answer(f"min(math.ceil(shape.num_n_blocks / {b}), shape.max_splits)",
               lambda c, b=b: np.minimum(-(-c["num_n_blocks"] // b), MAX_SPLITS), effort=2)  # type: ignore[misc]
        for b in BLOCKS_EACH
    ]  # fmt: skip
    for text, tile_level, tiles in (
        ("shape.total_mblocks", True, lambda c: c["total_mblocks"]), (f"({TILES})", False, _tiles),
    ):  # fmt: skip
        for waves in WAVES:
            sms = "gpu.num_sms" if waves == 1 else f"{waves} * gpu.num_sms"

            def fills(c: Columns, tiles: Callable[[Columns], Any] = tiles, waves: int = waves) -> Any:
                splits = np.maximum(1, waves * c["num_sms"] // tiles(c))
                return np.minimum(np.minimum(c["num_n_blocks"], splits), MAX_SPLITS)

            found.append(
                Answer(f"min(shape.num_n_blocks, max(1, {sms} // {text}), shape.max_splits)", fills, tile_level, 2)
            )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RuleBox:
    """One rule: closed ranges of terms, by index into `TERMS`, and an answer."""

    ranges: tuple[tuple[int, int, int], ...]
    answer: Answer

    def inside(self, columns: Columns) -> Any:
        """Mask of shapes on which the rule applies."""
        held = columns["num_n_blocks"] > 0
        for index, low, high in self.ranges:
            values = TERMS[index].values(columns)
            held = held & (values >= low) & (values <= high)
        return held

    @property
    def bounds(self) -> int:
        """Number of comparisons."""
        return sum(
            1 if low == high or TERMS[index].flag else (low > 0) + (high < OPEN) for index, low, high in self.ranges
        )

    def condition(self) -> str:
        """Condition as Python."""
        parts = []
        for index, low, high in self.ranges:
            term = TERMS[index]
            if term.flag:
                parts.append(term.text if low else f"not {term.text}")
            elif low == high:
                parts.append(f"{term.text} == {low}")
            elif low > 0 and high < OPEN:
                parts.append(f"{low} <= {term.text} <= {high}")
            else:
                parts.append(f"{term.text} >= {low}" if low > 0 else f"{term.text} <= {high}")
        return " and ".join(parts)

    def result(self) -> str:
        """Answer as Python, without a cap that the rule's own bound makes redundant."""
        if self.answer.at_most_blocks:
            high = next((h for i, _, h in self.ranges if i == 0), OPEN)
            if high <= self.answer.at_most_blocks:
                return "shape.num_n_blocks"
        return self.answer.text


@dataclass(frozen=True, slots=True)
class Found:
    """A rule with its effect on the recorded shapes and settings.

    Attributes:
        box: the rule.
        gain: its contribution to the mean log speed-up over all of them.
        changed: number of them whose launch changes.
        speedup: geometric mean over those.
    """

    box: RuleBox
    gain: float
    changed: int
    speedup: float
