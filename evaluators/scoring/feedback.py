"""Feedback for the next proposal: remaining gains of the candidate, as text and as data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.evaluation import Feedback, KnownLaunch, Opportunity
from evaluators.data.gain import Gain
from evaluators.data.launches import AnyDecision
from evaluators.data.sums import total
from evaluators.scoring.score import CHARGE
from evaluators.targets.registry import target_of

VERSION = 3
"""Version of the text. Version 1 (journals without a version): best launch by the upper of the two middle rounds, not
the median, so that shapes already at their best launch showed a remaining gain. Version 2: one best launch per shape
instead of a measured curve, regressions twice, no gains so far."""

SHOWN = 12
"""Shapes of each kind listed in the journal; prompts list as many as fit. The regions summarise the rest."""

CURVE_BEST, CURVE_SPREAD = 5, 6
"""Launches listed of a shape's measured curve: this many of the best, and this many spread over all."""

MIN_LEFT, MIN_TOLD = 0.01, 1e-4
"""Smallest log speed-up that counts as a remaining gain of a shape, and smallest share of the score of a listed
region."""

LINES_KEPT = 1 << 14
"""Lines about decisions that a writer keeps."""

Line = tuple[Sequence[KnownLaunch], str]
"""Known launches of a shape, and what was written of them."""

BATCH_EDGES = (1, 4, 16, 64)
KEY_EDGES = (256, 704, 2048, 8192, 32768)


@lru_cache(maxsize=4096)
def region(shape: DecodeShape) -> str:
    """Region of the shape space, coarse enough for a rule to refer to it."""
    kind = "ragged" if shape.ragged else "uniform"
    batch = next((edge for edge in BATCH_EDGES if shape.batch <= edge), BATCH_EDGES[-1])
    keys = next((edge for edge in KEY_EDGES if shape.seqlen_k <= edge), KEY_EDGES[-1])
    return f"{kind}, {shape.num_heads_kv} KV heads, batch <= {batch}, capacity <= {keys}"


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """Training shapes of one region.

    Attributes:
        name: see `region`.
        left: weighted log speed-up that remains to the oracle.
        gained: weighted log speed-up over the baseline so far.
        shapes: number of shapes.
        speedup: unweighted geometric mean over them.
    """

    name: str
    left: float
    gained: float
    shapes: int
    speedup: float


def by_region(opportunities: Iterable[Opportunity]) -> list[RegionSummary]:
    """Regions of the training shapes, largest remaining gain first."""
    groups: dict[str, list[Opportunity]] = defaultdict(list)
    for opportunity in opportunities:
        groups[region(opportunity.shape)].append(opportunity)
    rows = []
    for name, group in groups.items():
        logs = [math.log(o.speedup) for o in group]
        rows.append(
            RegionSummary(
                name,
                left=total(o.weight * o.gain for o in group),
                gained=total(o.weight * log for o, log in zip(group, logs, strict=True)),
                shapes=len(group),
                speedup=math.exp(total(logs) / len(group)),
            )
        )
    return sorted(rows, key=lambda row: (-row.left, row.name))


def _times(gain: Gain) -> str:
    return f"{gain.speedup:.3f}x+-{100 * gain.standard_error:.1f}%"


class ShapeWriter:
    """Writer of lines about single shapes under one setting on one GPU.

    Lines are kept for as long as the shape's known launches are the same: prompts repeat most of them.
    """

    def __init__(self, setting: Setting, gpu: Gpu) -> None:
        """Store the setting and GPU of the measurements."""
        self._setting, self._gpu, self._target = setting, gpu, target_of(setting)
        self._lines: dict[tuple[str, AnyDecision, bool], Line] = {}
        self._curves: dict[str, Line] = {}

    def _grid(self, shape: DecodeShape, decision: AnyDecision) -> str:
        launch = self._target.launch(shape, self._setting, decision, self._gpu)
        grid = self._target.grid(shape, self._setting, launch)
        return f"{grid.ctas} CTAs, {grid.ctas / self._gpu.num_sms:.2f} waves, longest {grid.longest_blocks}"

    def shape(self, opportunity: Opportunity) -> str:
        """Shape in the terms that the program sees."""
        shape = opportunity.shape
        text = f"batch {shape.batch}, {shape.num_heads_q}:{shape.num_heads_kv} heads, {shape.seqlen_k} keys"
        return text + self._target.rows_text(shape, self._setting)

    def line(self, opportunity: Opportunity) -> str:
        """Line with shape, decision and baseline, each with its launch and latency."""
        o, known = opportunity, opportunity.known()
        key = (o.name, o.decided, o.missing)
        kept = self._lines.get(key)
        if kept is None or kept[0] is not known:
            if len(self._lines) >= LINES_KEPT:
                self._lines.clear()
            kept = self._lines[key] = known, self._line(o, known[0])
        return kept[1]

    def _line(self, o: Opportunity, baseline: KnownLaunch) -> str:
        gain = None if o.missing else o.look_up(o.decided)
        took = "no recorded latency"
        if gain is not None:
            took = f"{_times(gain)}, {baseline.latency_us / gain.speedup:.1f} us"
        own, theirs = self._grid(o.shape, o.decided), self._grid(o.shape, baseline.decision)
        decided, stock = self._target.choice(o.decided), self._target.choice(baseline.decision)
        same = own == theirs and decided == stock
        beside = "as the baseline" if same else f"baseline {stock} ({baseline.latency_us:.1f} us; {theirs})"
        return f"{self.shape(o)}: decided {decided} ({took}; {own}), {beside}"

    def curve(self, opportunity: Opportunity) -> str:
        """Line with the best measured launches and a spread over all."""
        name, known = opportunity.name, opportunity.known()
        kept = self._curves.get(name)
        if kept is None or kept[0] is not known:
            kept = self._curves[name] = known, self._curve(opportunity.shape, known)
        return kept[1]

    def _curve(self, shape: DecodeShape, known: Sequence[KnownLaunch]) -> str:
        points: dict[tuple[int, ...], tuple[str, Gain]] = {}
        for launch in known:
            point = self._target.curve_point(shape, self._setting, launch.decision, self._gpu)
            if point is not None:
                points.setdefault(point[0], (point[1], launch.gain))
        order = sorted(points)
        best = sorted(order, key=lambda k: -points[k][1].log_speedup)[:CURVE_BEST]
        step = max(1, -(-len(order) // CURVE_SPREAD))
        told = sorted({*best, *order[::step], order[-1]})
        what = self._target.curve_title(shape)
        curve = ", ".join(f"{points[k][0]}: {_times(points[k][1])}" for k in told)
        return f"  measured by {what}: {curve}; best {points[best[0]][0]}"


@lru_cache(maxsize=4)
def _writer(setting: Setting, gpu: Gpu) -> ShapeWriter:
    return ShapeWriter(setting, gpu)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *lines, ""] if lines else []


class FeedbackText:
    """Feedback on one candidate as text of any length; training shapes only, each at most once."""

    def __init__(self, feedback: Feedback) -> None:
        """Sort the shapes once for all lengths."""
        self._feedback = feedback
        slower: dict[str, int] = defaultdict(int)
        for o in feedback.regressions:
            slower[region(o.shape)] += 1
        self._regions = [
            f"- {r.name}: {r.shapes} shapes, now {r.speedup:.3f}x, gained {100 * r.gained:+.2f}%, "
            f"left {100 * r.left:.2f}%" + (f", {slower[r.name]} slower" if slower[r.name] else "")
            for r in by_region(feedback.opportunities)
            if r.left > MIN_TOLD or abs(r.gained) > MIN_TOLD
        ]
        self._absent = sorted((o for o in feedback.opportunities if o.missing), key=lambda o: -o.weight)
        told = {o.name for o in (*self._absent, *feedback.regressions)}
        further = [o for o in feedback.opportunities if o.name not in told]
        self._left = [o for o in further if o.gain > MIN_LEFT]
        self._gained = sorted(
            (o for o in further if o.speedup > 1 + MIN_LEFT), key=lambda o: -o.weight * math.log(o.speedup)
        )

    def render(self, shown: int) -> str:
        """Text that lists `shown` shapes of each kind."""
        feedback = self._feedback
        if feedback.setting is None or feedback.gpu is None or not feedback.opportunities:
            return ""
        writer = _writer(feedback.setting, feedback.gpu)
        regions, most = self._regions, 3 * shown
        if len(regions) > most:
            regions = [*regions[: most - 1], f"- and {len(regions) - most + 1} more with less left"]
        absent, left = self._absent, self._left[:shown]
        told = {o.name for o in left}
        gained = [o for o in self._gained if o.name not in told]

        def spelled(opportunities: Sequence[Opportunity], *, curves: bool = True) -> list[str]:
            return [f"- {writer.line(o)}" + (f"\n{writer.curve(o)}" if curves else "") for o in opportunities]

        lines = [
            *_section("By region of the training shapes, in % of the score, the most left to gain first:", regions),
            *_section(
                f"Without a recorded latency ({len(absent)} of {len(feedback.opportunities)} training shapes), "
                f"{CHARGE}:",
                spelled(absent[:shown]),
            ),
            *_section(
                f"Slower than the baseline by more than 1% ({len(feedback.regressions)} in all), the costliest first:",
                spelled(feedback.regressions[:shown]),
            ),
            *_section("Most left to gain, beside those above:", spelled(left)),
            *_section("Gained most so far, and little left:", spelled(gained[: (shown + 1) // 2], curves=False)),
        ]
        return "\n".join([target_of(feedback.setting).how_to_read, "", *lines]).rstrip()


def render(feedback: Feedback, *, shown: int = SHOWN) -> str:
    """Feedback as text for a prompt, see `FeedbackText`."""
    return FeedbackText(feedback).render(shown)
