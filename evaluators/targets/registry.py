"""The targets by name, and which of them a setting or a decision belongs to."""

from __future__ import annotations

from evaluators.data.contract import Setting
from evaluators.data.launches import AnyDecision
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget
from evaluators.targets.triton_decode import TRITON_DECODE

TARGETS: dict[str, AnyTarget] = {FA3.name: FA3, TRITON_DECODE.name: TRITON_DECODE}


def target_of(setting: Setting) -> AnyTarget:
    """The target whose kernel the setting's provider runs: the one of that name, or FA3."""
    return TARGETS.get(setting.provider, FA3)


def target_of_name(setting: str) -> AnyTarget:
    """The same by the setting's name, as journals hold it; of several settings, joined by ` + `, the first's."""
    return TARGETS.get(setting.partition("-")[0], FA3)


def target_of_decision(decision: AnyDecision) -> AnyTarget:
    """The target whose decision it is."""
    return next(t for t in TARGETS.values() if isinstance(decision, t.decision_type))
