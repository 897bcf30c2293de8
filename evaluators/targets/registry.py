"""Targets by name, setting or decision."""

from __future__ import annotations

from evaluators.data.contract import Setting
from evaluators.data.launches import AnyDecision
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget
from evaluators.targets.triton_decode import TRITON_DECODE

TARGETS: dict[str, AnyTarget] = {FA3.name: FA3, TRITON_DECODE.name: TRITON_DECODE}


def target_of(setting: Setting) -> AnyTarget:
    """Target of a setting: the one named like its provider, or FA3."""
    return TARGETS.get(setting.provider, FA3)


def target_of_name(setting: str) -> AnyTarget:
    """Target by the name of a setting, or of several settings joined by ` + `, as in journals."""
    return TARGETS.get(setting.partition("-")[0], FA3)


def target_of_decision(decision: AnyDecision) -> AnyTarget:
    """Target of a decision."""
    return next(t for t in TARGETS.values() if isinstance(decision, t.decision_type))
