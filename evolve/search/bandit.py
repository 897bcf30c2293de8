"""Choice of the next model: fixed weights, or a bandit that favours gain in score per cost.

A choice depends on the committed results and the proposal's seed alone, so that a resumed or replayed run
chooses the same. The weights are those of the configuration times

    (gain + PRIOR_CALLS * mean gain per call of all) / (cost + PRIOR_CALLS * mean cost per call of this model)

where a call's gain is the improvement of its program's training score over its parent's, at least 0, and older calls
decay. Before the first gain the configured weights apply; each model keeps `EXPLORE` of its configured share, since an
unused model cannot show that it has become the better one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evaluators.data.sums import total
from evolve.proposer_config import EndpointConfig, ProposerConfig, ReplayConfig

PRIOR_CALLS = 4.0
"""Calls of average yield that every model starts with."""
LEAST_GAIN = 1e-12
"""Decayed sums below this are rounding."""
FADE = 0.98
"""Decay of a call's weight with each later call."""
EXPLORE = 0.15


@dataclass(slots=True)
class Record:
    """Decayed totals of one model."""

    calls: float = 0.0
    gain: float = 0.0
    usd: float = 0.0
    tokens: float = 0.0

    def fade(self) -> None:
        """Decay the totals after a committed call of any model."""
        self.calls, self.gain = self.calls * FADE, self.gain * FADE
        self.usd, self.tokens = self.usd * FADE, self.tokens * FADE


class ModelChoice(Protocol):
    """Strategy that chooses the model of each proposal."""

    def choose(self, index: int, seed: int) -> str:
        """Return the model for a proposal; empty if there is no choice."""
        ...

    def commit(self, model: str, *, gain: float, usd: float, tokens: int) -> None:
        """Record a call's outcome, in index order."""
        ...


class Bandit:
    """Weighted choice among several models."""

    def __init__(self, weights: Sequence[tuple[str, float]], *, shifting: bool) -> None:
        """Start from the configured weights; without `shifting` they are fixed."""
        self._names = [name for name, _ in weights]
        whole = total(weight for _, weight in weights)
        self._prior = [weight / whole for _, weight in weights]
        self._shifting = shifting
        self._records = {name: Record() for name in self._names}

    def shares(self) -> list[float]:
        """Probability of each model, in the configuration's order."""
        records = list(self._records.values())
        gain, calls = total(r.gain for r in records), total(r.calls for r in records)
        if not self._shifting or gain < LEAST_GAIN:
            return self._prior
        # Cost in dollars if every used model has a price, otherwise in tokens, otherwise in calls: one unit for all.
        asked = [r for r in records if r.calls > 0]
        unit = "usd" if all(r.usd > 0 for r in asked) else "tokens" if all(r.tokens > 0 for r in asked) else "calls"
        usual = total(getattr(r, unit) for r in asked) / calls
        values = []
        for prior, record in zip(self._prior, records, strict=True):
            spent = getattr(record, unit)
            per_call = spent / record.calls if record.calls > 0 else usual
            value = (record.gain + PRIOR_CALLS * gain / calls) / (spent + PRIOR_CALLS * per_call)
            values.append(prior * value)
        whole = total(values)
        return [EXPLORE * p + (1 - EXPLORE) * v / whole for p, v in zip(self._prior, values, strict=True)]

    def choose(self, index: int, seed: int) -> str:
        """See `ModelChoice.choose`."""
        return random.Random(f"model:{seed}").choices(self._names, weights=self.shares())[0]

    def commit(self, model: str, *, gain: float, usd: float, tokens: int) -> None:
        """See `ModelChoice.commit`."""
        record = self._records.get(model)
        if record is None:
            return
        for each in self._records.values():
            each.fade()
        record.calls += 1
        record.gain += gain
        record.usd += usd
        record.tokens += tokens


class OneModel:
    """No choice: the proposer has one model."""

    def choose(self, index: int, seed: int) -> str:
        """See `ModelChoice.choose`."""
        return ""

    def commit(self, model: str, *, gain: float, usd: float, tokens: int) -> None:
        """See `ModelChoice.commit`."""


class RecordedChoice(OneModel):
    """Models of a recorded run."""

    def __init__(self, models: dict[int, str]) -> None:
        """Store the models by proposal."""
        self._models = models

    def choose(self, index: int, seed: int) -> str:
        """See `ModelChoice.choose`."""
        return self._models.get(index, "")


def open_choice(config: ProposerConfig) -> ModelChoice:
    """Open the model choice of a configuration."""
    if isinstance(config, EndpointConfig) and config.models:
        return Bandit([(m.name, m.weight) for m in config.models], shifting=config.bandit)
    if isinstance(config, ReplayConfig):
        from evolve.proposers.replay import recorded_models

        return RecordedChoice(recorded_models(config))
    return OneModel()
