"""Choice of the model that is asked next: fixed weights, or a bandit that favours score gained per cost.

A choice follows from the committed results and the proposal's seed alone, so that a resumed or replayed run
chooses the same. The weights are those of the configuration times

    (gain + PRIOR_CALLS * mean gain per call of all) / (cost + PRIOR_CALLS * mean cost per call of this model)

where a call's gain is what its program's training score has over its parent's, 0 if nothing, and older calls fade.
Before anything was gained the configured weights rule; each model keeps `EXPLORE` of its configured share, since
a model that is never asked cannot show that it has become the better one.
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
"""Faded sums below this are rounding."""
FADE = 0.98
"""Factor by which the weight of a call falls with each later one."""
EXPLORE = 0.15


@dataclass(slots=True)
class Record:
    """Faded totals of one model."""

    calls: float = 0.0
    gain: float = 0.0
    usd: float = 0.0
    tokens: float = 0.0

    def fade(self) -> None:
        """One more call was committed, by whichever model."""
        self.calls, self.gain = self.calls * FADE, self.gain * FADE
        self.usd, self.tokens = self.usd * FADE, self.tokens * FADE


class ModelChoice(Protocol):
    """Names the model of each proposal."""

    def choose(self, index: int, seed: int) -> str:
        """The model to ask; empty where there is no choice."""
        ...

    def commit(self, model: str, *, gain: float, usd: float, tokens: int) -> None:
        """Take note of a call's outcome, in index order."""
        ...


class Bandit:
    """Several models with weights."""

    def __init__(self, weights: Sequence[tuple[str, float]], *, shifting: bool) -> None:
        """Start from the configured weights; without `shifting` they stay."""
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
        # Dollars where every model that was asked has a price, else tokens, else calls: never one against the other.
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
    """No choice: the proposer knows its only model."""

    def choose(self, index: int, seed: int) -> str:
        """See `ModelChoice.choose`."""
        return ""

    def commit(self, model: str, *, gain: float, usd: float, tokens: int) -> None:
        """See `ModelChoice.commit`."""


class RecordedChoice(OneModel):
    """The models that a recorded run asked."""

    def __init__(self, models: dict[int, str]) -> None:
        """Keep them by proposal."""
        self._models = models

    def choose(self, index: int, seed: int) -> str:
        """See `ModelChoice.choose`."""
        return self._models.get(index, "")


def open_choice(config: ProposerConfig) -> ModelChoice:
    """How a configuration chooses models."""
    if isinstance(config, EndpointConfig) and config.models:
        return Bandit([(m.name, m.weight) for m in config.models], shifting=config.bandit)
    if isinstance(config, ReplayConfig):
        from evolve.proposers.replay import recorded_models

        return RecordedChoice(recorded_models(config))
    return OneModel()
