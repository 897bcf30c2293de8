"""Predicted time per output token: kernel latencies put into a step whose rest was measured, or bounded by bandwidth.

step = rest + layers x (kernel latency + what a call costs within a step beyond it). The rest (everything but
attention) depends only on the batch; it comes from steps that were measured without attention, or from the bytes of
the shard's weights at peak bandwidth, a lower bound of the rest and so an upper bound of a kernel's effect. Kernel
latencies are those of recordings. These are predictions, not measurements.
"""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from evaluators.data.contract import Cache, DecodeShape, Gpu, Setting
from evaluators.data.errors import UserError
from evaluators.data.launches import AnyDecision
from evaluators.data.sums import total
from evaluators.data.workloads import heads_text
from evaluators.measure.providers.memory import live_kv_bytes
from evaluators.targets.fa3 import FA3, Fa3
from evaluators.targets.registry import target_of
from evaluators.tokens.shard import Shard

H100_BYTES_PER_US = 3.35e6
"""Peak bandwidth of an H100 SXM (data sheet: 3.35 TB/s); no kernel reaches it."""

L2_BYTES = Gpu().l2_bytes
"""L2 of an H100."""


class RestOrigin(StrEnum):
    """Origin of the time of everything but attention."""

    MEASURED = "measured"
    ROOFLINE = "roofline"


@dataclass(frozen=True, slots=True)
class KernelCall:
    """An attention call, and what of it costs more within a step than among its like.

    Attributes:
        latency_us: latency among its like, microseconds.
        partial_rows: rows of partial outputs, of live splits of sequences that are split, times query heads.
        fused: True if the kernel combines them by itself.
        combined: True if a second kernel is started for that, whether or not anything is split.
        kv_bytes: bytes of K and V that it reads.
    """

    latency_us: float
    partial_rows: int = 0
    fused: bool = False
    combined: bool = False
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InStepCost:
    """Cost of an attention call within a step beyond its isolated latency.

    Between two layers the weights go through L2, so that code, arguments and what splits leave for their combination
    come from memory. A recording has the same where a call reads more than L2 holds, so that less is to be added.

    Attributes:
        launch_us: microseconds of every call of FA3.
        combine_us: microseconds of its second kernel.
        partials_us: limit, for many partial outputs, of the microseconds that they add.
        half_rows: rows of partial outputs (live splits of split sequences, times query heads) that add half of it.
        fused_us: microseconds of a call, instead of all these, where the kernel combines its splits itself.
        fused_partials_us: limit of the microseconds that such a kernel's partial outputs add.
    """

    launch_us: float
    combine_us: float
    partials_us: float
    half_rows: float
    fused_us: float = 0.0
    fused_partials_us: float = 0.0

    def of(self, call: KernelCall) -> float:
        """Microseconds of a call."""
        kept = L2_BYTES / (L2_BYTES + call.kv_bytes)
        partials = kept * call.partial_rows / (call.partial_rows + self.half_rows)
        if call.fused:
            return self.fused_us + self.fused_partials_us * partials
        return self.launch_us + self.combine_us * call.combined + self.partials_us * partials


IN_STEP_FA3 = InStepCost(1.71, 0.0, 2.11, 1569.0)
"""Of fa3-fwd on an H100, fitted on 72 shapes of Llama-3.1-70B at TP 8 (results/tpot)."""

IN_STEP_TRITON = InStepCost(0.90, 0.0, 4.0, 1957.0, 0.366, 1.56)
"""Of FA3 and the Triton kernel beside each other, on 45 such shapes (results/tpot/triton). What calls cost in common
differs from one measurement to the next and hardly matters; what they do not have in common does."""

IN_STEP_VLLM = InStepCost(2.60, 1.232, 2.444, 5000.0)
"""Of vLLM's FA3 on pages, fitted on 68 shapes of Llama-3.1-8B (results/tpot/together/vllm-8b)."""


IN_STEP_NOTHING = InStepCost(0.0, 0.0, 0.0, 1.0)
"""Of calls that were recorded in layers."""


def in_step_cost(setting: Setting) -> InStepCost:
    """Model of a setting's calls within steps."""
    if setting.cache is Cache.LAYER:
        return IN_STEP_NOTHING
    if not isinstance(target_of(setting), Fa3):
        return IN_STEP_TRITON
    return IN_STEP_VLLM if setting.paged else IN_STEP_FA3


@dataclass(frozen=True, slots=True)
class PredictionError:
    """Distance of predictions from measured steps, for one setting and the heads of one shard.

    Attributes:
        points: percentage points of one shape's change of tokens that held 90% of the errors.
        shapes: number of measured shapes, none of which the shipped costs were fitted on.
    """

    points: float
    shapes: int


PREDICTION_ERRORS = {
    ("fa3_fwd-metadata-cold", "h8x1"): PredictionError(0.28, 60),
    ("fa3_fwd-metadata-cold", "h32x8"): PredictionError(0.59, 135),
    ("fa3_fwd-static-cold", "h8x1"): PredictionError(0.45, 52),
    ("fa3_fwd-static-cold", "h32x8"): PredictionError(0.53, 30),
    ("triton_decode-metadata-cold", "h8x1"): PredictionError(0.57, 82),
    ("triton_decode-metadata-cold", "h32x8"): PredictionError(0.60, 155),
    ("vllm-metadata-cold", "h8x1"): PredictionError(0.95, 36),
    ("vllm-metadata-cold", "h32x8"): PredictionError(0.61, 34),
    ("fa3_fwd-metadata-layer", "h8x1"): PredictionError(0.47, 17),
    ("fa3_fwd-metadata-layer", "h32x8"): PredictionError(0.52, 70),
    ("triton_decode-metadata-layer", "h8x1"): PredictionError(0.29, 37),
    ("triton_decode-metadata-layer", "h32x8"): PredictionError(0.15, 24),
    ("vllm-metadata-layer", "h32x8"): PredictionError(0.25, 19),
}
"""By setting and heads; `python results/tpot/blind.py` prints them."""


def prediction_error(setting: Setting, model: StepModel) -> PredictionError | None:
    """Error of predictions for a setting and a shard; None where none was compared with measured steps."""
    if model.origin is not RestOrigin.MEASURED:
        return None
    return PREDICTION_ERRORS.get((setting.name, heads_text(model.shard.heads)))


def kernel_call(latency_us: float, shape: DecodeShape, setting: Setting, decision: AnyDecision, gpu: Gpu) -> KernelCall:
    """A call by a decision that is spelled out; where a kernel leaves it to FA3, by FA3's own choice."""
    fa3 = isinstance(target_of(setting), Fa3)
    fused = not fa3 and decision.num_splits > 0
    if not (fa3 or fused):
        setting = replace(setting, provider="vllm" if setting.paged else "fa3_fwd")
        decision = FA3.spelled_out(shape, setting, FA3.baseline(setting), gpu)
    live = target_of(setting).launch(shape, setting, decision, gpu).live_splits
    each = live * (shape.batch if len(live) < shape.batch else 1)
    rows = shape.num_heads_q * sum(n for n in each if n > 1)
    return KernelCall(latency_us, rows, fused, not fused and decision.num_splits > 1, live_kv_bytes(shape))


@dataclass(frozen=True, slots=True)
class StepModel:
    """A shard's step without the latencies of its attention calls.

    Attributes:
        shard: the model's part.
        origin: origin of the time of the rest.
        rest: (batch, microseconds) of everything but attention, by batch.
        cost: cost of attention calls beyond their latency.
    """

    shard: Shard
    origin: RestOrigin
    rest: tuple[tuple[int, float], ...]
    cost: InStepCost = IN_STEP_FA3

    def rest_us(self, batch: int) -> float:
        """Time of everything but attention: linear between measured batches, beyond them that of the nearest."""
        batches = [b for b, _ in self.rest]
        at = bisect_left(batches, batch)
        if at < len(batches) and batches[at] == batch:
            return self.rest[at][1]
        if at in (0, len(batches)):
            return self.rest[min(at, len(batches) - 1)][1]
        (b0, t0), (b1, t1) = self.rest[at - 1 : at + 1]
        return t0 + (t1 - t0) * (batch - b0) / (b1 - b0)

    def attention_us(self, call: KernelCall) -> float:
        """Predicted attention of all layers."""
        return self.shard.layers * (call.latency_us + self.cost.of(call))

    def step_us(self, batch: int, call: KernelCall) -> float:
        """Predicted step with such attention calls."""
        return self.rest_us(batch) + self.attention_us(call)

    def attention_share(self, batch: int, call: KernelCall) -> float:
        """Predicted share of attention in a step."""
        return self.attention_us(call) / self.step_us(batch, call)

    def token_speedup(self, batch: int, baseline: KernelCall, program: KernelCall) -> float:
        """Predicted step with the baseline's calls over that with the program's."""
        return self.step_us(batch, baseline) / self.step_us(batch, program)

    def as_json(self) -> dict[str, Any]:
        """The model in the form of a file of steps."""
        rest = [{"batch": b, "rest_us": round(t, 2)} for b, t in self.rest]
        return {"shard": asdict(self.shard), "origin": self.origin.value, "rest": rest}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> StepModel:
        """Inverse of `as_json`.

        Raises:
            ValueError: a field is missing, nothing was measured, or a time is no positive number.
        """
        try:
            rest = tuple(sorted((int(r["batch"]), float(r["rest_us"])) for r in data["rest"]))
            model = StepModel(Shard(**data["shard"]), RestOrigin(data["origin"]), rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected shard, origin and rest of a step ({error!r})") from error
        if not rest or any(b < 1 or not 0 < t < math.inf for b, t in rest):
            raise ValueError("expected at least one batch, each with a time above 0")
        return model


def measured_model(shard: Shard, measured: Iterable[tuple[int, float]]) -> StepModel:
    """A step model from (batch, microseconds of a step without attention); medians by batch."""
    by_batch: dict[int, list[float]] = {}
    for batch, rest_us in measured:
        by_batch.setdefault(batch, []).append(rest_us)
    rest = tuple((batch, statistics.median(by_batch[batch])) for batch in sorted(by_batch))
    return StepModel(shard, RestOrigin.MEASURED, rest)


def roofline_model(shard: Shard) -> StepModel:
    """The shortest conceivable rest: every weight read once at peak bandwidth."""
    return StepModel(shard, RestOrigin.ROOFLINE, ((1, shard.weight_bytes / H100_BYTES_PER_US),))


@dataclass(frozen=True, slots=True)
class KernelPair:
    """The calls of one shape; `weight` is its share of output tokens, on any common scale."""

    weight: float
    batch: int
    baseline: KernelCall
    program: KernelCall


@dataclass(frozen=True, slots=True)
class TokenPrediction:
    """Predicted (not measured) effect of faster kernels on a shard's tokens.

    Attributes:
        origin: origin of the time of the rest of the step: measured, or a lower bound.
        kernel_speedup: weighted geometric mean over the shapes, kernels alone.
        token_speedup: mean step before over mean step after.
        worst: lowest token speed-up of the shapes.
        best: highest token speed-up of the shapes.
        attention_share: share of attention in the mean step before.
        shapes: number of recorded shapes with the shard's heads.
        error: distance of such predictions from measured steps; None where it was never measured.
    """

    shard: str
    origin: RestOrigin
    kernel_speedup: float
    token_speedup: float
    worst: float
    best: float
    attention_share: float
    shapes: int
    error: PredictionError | None

    @property
    def is_bound(self) -> bool:
        """True if the token speed-ups are upper bounds and no predictions."""
        return self.origin is RestOrigin.ROOFLINE


def predict_tokens(
    model: StepModel, pairs: Sequence[KernelPair], error: PredictionError | None = None
) -> TokenPrediction:
    """Predict the time per output token over shapes.

    Args:
        model: the step without its calls.
        pairs: calls of every shape.
        error: distance of such predictions from measured steps, where it is known.

    Raises:
        ValueError: no pair, or none that weighs anything.
    """
    whole = total(p.weight for p in pairs)
    if not whole:
        raise ValueError("no shape weighs anything")
    each = [model.token_speedup(p.batch, p.baseline, p.program) for p in pairs]
    before = total(p.weight * model.step_us(p.batch, p.baseline) for p in pairs)
    after = total(p.weight * model.step_us(p.batch, p.program) for p in pairs)
    attention = total(p.weight * model.attention_us(p.baseline) for p in pairs)
    logs = total(p.weight * math.log(p.baseline.latency_us / p.program.latency_us) for p in pairs)
    return TokenPrediction(
        model.shard.name, model.origin, math.exp(logs / whole), before / after, min(each), max(each),
        attention / before, len(pairs), error,
    )  # fmt: skip


def read_steps(path: Path) -> tuple[StepModel, ...]:
    """Measured steps of a file, as `evosplit tpot` and results/tpot write them.

    Raises:
        UserError: it cannot be read, or holds no steps.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return tuple(StepModel.from_json(row) for row in data["steps"])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no measured steps ({error})") from error
