"""The traffic of a configuration: the model's decode step, the trace as decode batches, and weights of shapes."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from evaluators.data.contract import Setting
from evaluators.data.evaluation import Evaluation
from evaluators.data.models import read_model
from evaluators.data.workloads import Case, Split, Weighting, weights
from evaluators.judge.judge import Judge, Weigh
from evaluators.judge.judge_set import Objective
from evaluators.latencies.table import Table
from evaluators.tokens.predict import (
    KernelPair,
    StepModel,
    TokenPrediction,
    in_step_cost,
    kernel_call,
    predict_tokens,
    prediction_error,
    read_steps,
    roofline_model,
)
from evaluators.tokens.shard import Shard, shard_of
from evaluators.traffic.batching import ServerLimits, Traffic, estimated_kernel_us, simulate, step_time
from evaluators.traffic.shapes import Mapped, by_attention, map_to_recorded, traffic_cases
from evaluators.traffic.traces import Trace, read_trace
from evolve.assets import CHECKOUT, PACKAGED, asset
from evolve.config import TRACE, RunConfig, TrafficConfig
from evolve.errors import UserError

SHIPPED_STEPS = "results/tpot/steps.json"


def step_model(shard: Shard, steps: str | None) -> StepModel:
    """Measured step of a shard, from a file or the one that ships; otherwise the roofline.

    Raises:
        UserError: the file cannot be read.
    """
    shipped = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    path = asset(steps) if steps is not None else shipped / SHIPPED_STEPS
    if steps is not None or path.is_file():
        for model in read_steps(Path(path)):
            if model.shard == shard:
                return model
    return roofline_model(shard)


@dataclass(frozen=True)
class OpenedTraffic:
    """A model on a server.

    Attributes:
        config: configuration that it was opened from.
        seed: seed of the sample of batches.
        model: model of its decode step.
        trace: requests; None where only the model is known.
    """

    config: TrafficConfig
    seed: int
    model: StepModel
    trace: Trace | None

    @cached_property
    def traffic(self) -> Traffic:
        """Decode steps of the simulated server for the trace.

        Raises:
            UserError: there is none.
        """
        assert self.trace is not None
        c = self.config
        limits = ServerLimits(c.max_batch, c.kv_tokens, c.max_model_len, c.prefill_tokens_per_s)
        found = simulate(self.trace, limits, step_time(self.model), batches=c.batches, seed=self.seed)
        if not found.batches:
            raise UserError(
                f"no request of {self.trace.name} takes a decode step: {found.refused} of {len(self.trace.requests)} "
                "are longer than the server's limits, the others have answers of one token",
                hint="traffic.max_model_len and traffic.kv_tokens are the limits",
            )
        return found

    @property
    def about(self) -> dict[str, str]:
        """Entries of a judge's description, enough to detect changes."""
        known = {"limits": self.config.model_dump(mode="json"), "seed": self.seed, "model": self.model.as_json()}
        if self.trace is not None:
            known["requests"] = [asdict(r) for r in self.trace.requests]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        named = self.trace.name if self.trace else "every shape alike"
        return {"traffic": f"{self.model.shard.name}, {named}, {digest[:12]}"}

    def shares(self, cases: Sequence[Case]) -> Mapping[str, float]:
        """Share of output tokens that each case represents; the sum is 1.

        Raises:
            UserError: no case has the model's heads.
        """
        if self.trace is not None:
            return self.mapped(cases).weights
        return weights(map_heads(cases, self.model.shard), Weighting.SERVING)

    def mapped(self, cases: Sequence[Case]) -> Mapped:
        """Batches of the trace, mapped to recorded cases."""
        return map_to_recorded(self.traffic.batches, cases, self.model.shard.heads)

    def live_cases(self, setting: Setting) -> tuple[Case, ...]:
        """Batches of the trace as new cases; on pages every call has the capacity of the longest request."""
        return traffic_cases(
            self.traffic, self.model.shard.heads, capacity=self.config.max_model_len if setting.paged else None
        )


def map_heads(cases: Sequence[Case], shard: Shard) -> list[Case]:
    """Cases with a shard's heads.

    Raises:
        UserError: none.
    """
    found = [c for c in cases if not shard.fits(c.shape)]
    if not found:
        map_to_recorded((), cases, shard.heads)  # raises with the list of known heads
    return found


def open_traffic(config: RunConfig) -> OpenedTraffic | None:
    """Open the traffic of a configuration; None if it has none.

    Raises:
        UserError: unknown model, heads that cannot be cut so, a trace or a file of steps that cannot be read.
    """
    section = config.traffic
    if section is None:
        return None
    shard = shard_of(read_model(section.model), section.tp)
    trace = None
    if section.trace is not None:
        trace = read_trace(asset(section.trace), limit=section.requests)
    return OpenedTraffic(section, config.random_seed, step_model(shard, section.steps), trace)


def baseline_us(table: Table) -> Callable[[str], float]:
    """Median latency of the baseline's launch by case id."""
    return lambda case_id: statistics.median(table.cells[case_id][0].latencies_us)


def _weigh(opened: OpenedTraffic, kernel_us: Callable[[str], float] | None, cases: Sequence[Case]) -> dict[str, float]:
    shares = opened.shares(cases)
    return by_attention(shares, kernel_us) if kernel_us else dict(shares)


def weigh_table(config: RunConfig, opened: OpenedTraffic | None) -> Callable[[Table], Weigh] | None:
    """Weights of recorded shapes for `judge.workload` and `judge.objective`; None for the default weighting."""
    tokens = config.judge.objective is Objective.TOKENS
    if opened is None or not (tokens or config.judge.workload == TRACE):
        return None
    return lambda table: partial(_weigh, opened, baseline_us(table) if tokens else None)


def weigh_live(config: RunConfig, opened: OpenedTraffic | None, cases: Sequence[Case]) -> Weigh | None:
    """Weights of live shapes: attention's time is estimated from bytes, before any measurement."""
    if opened is None or config.judge.objective is not Objective.TOKENS:
        return None
    shapes = {c.id: c.shape for c in cases}

    def estimated(case_id: str) -> float:
        return estimated_kernel_us(opened.model.shard.heads, sum(shapes[case_id].seqlens))

    if config.judge.workload == TRACE:
        return lambda own: by_attention({c.id: 1 / len(own) for c in own}, estimated)
    return partial(_weigh, opened, estimated)


def predicted(opened: OpenedTraffic, judge: Judge, evaluation: Evaluation, split: Split) -> TokenPrediction | None:
    """Predicted tokens of a program over a split's recorded shapes with the model's heads; None without such shapes."""
    cases = [
        c
        for c in judge.cases
        if c.split is split and c.id in evaluation.speedups and not opened.model.shard.fits(c.shape)
    ]
    if not cases:
        return None
    shares = opened.shares(cases)
    decided = dict(zip((c.id for c in judge.cases), evaluation.decisions, strict=True))
    pairs = []
    for case in cases:
        share = shares.get(case.id, 0.0)
        if share:
            stock = judge.source.cells(case)[0]
            before = statistics.median(stock.latencies_us)
            after = before / evaluation.speedups[case.id]
            spelled = judge.outcome(case.id, decided[case.id]).spelled
            calls = (
                kernel_call(us, case.shape, judge.setting, decision, judge.gpu)
                for us, decision in ((before, stock.decision), (after, spelled))
            )
            pairs.append(KernelPair(share, case.shape.batch, *calls))
    model = replace(opened.model, cost=in_step_cost(judge.setting))
    return predict_tokens(model, pairs, prediction_error(judge.setting, model))


UNASKED = TrafficConfig(model="llama-3.1-70b", tp=8)
"""Default model of predictions: the one of the recorded workloads."""


def predict_splits(config: RunConfig, judge: Judge, evaluation: Evaluation) -> dict[str, TokenPrediction]:
    """Predicted tokens of a program by split, for the configured model; empty if its heads were not recorded.

    A configuration without a model gets `UNASKED`.
    """
    opened = open_traffic(config) or open_traffic(config.model_copy(update={"traffic": UNASKED}))
    assert opened is not None
    found = {s.value: predicted(opened, judge, evaluation, s) for s in Split if s in judge.weights}
    return {name: p for name, p in found.items() if p is not None}
