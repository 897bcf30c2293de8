"""Targets by name, setting or decision."""

from __future__ import annotations

from dataclasses import replace

from evaluators.data.contract import Setting
from evaluators.data.errors import UserError
from evaluators.data.launches import AnyDecision
from evaluators.targets.fa3 import FA3, FA3_LENGTHS
from evaluators.targets.target import AnyTarget
from evaluators.targets.triton_decode import TRITON_DECODE

TARGETS: dict[str, AnyTarget] = {FA3.name: FA3, TRITON_DECODE.name: TRITON_DECODE}


def target_of(setting: Setting) -> AnyTarget:
    """Target of a setting: the one named like its provider, or FA3."""
    return FA3_LENGTHS if setting.live_lengths else TARGETS.get(setting.provider, FA3)


def with_live_lengths(setting: Setting) -> Setting:
    """The setting with `schedule` told the live lengths.

    Raises:
        UserError: a setting in which they decide nothing, or of another kernel than FA3's.
    """
    target = target_of(setting)
    if target is not FA3 and not setting.live_lengths:
        raise UserError(
            f"live lengths are told to FA3's schedule, and {setting.name} is a setting of the {target.title}",
            hint="its blocks_per_split sees them",
        )
    if not target.asks_work(setting):
        raise UserError(f"no live lengths are known in static mode ({setting.name})", hint="a setting with metadata")
    return replace(setting, live_lengths=True)


def told_target(name: str) -> AnyTarget:
    """The target of programs by its own name, where they are told live lengths, too."""
    return FA3_LENGTHS if name == FA3_LENGTHS.name else TARGETS[name]


def target_of_name(setting: str) -> AnyTarget:
    """Target by the name of a setting, or of several settings joined by ` + `, as in journals.

    Names do not say whether live lengths are told.
    """
    return TARGETS.get(setting.partition("-")[0], FA3)


def target_of_decision(decision: AnyDecision) -> AnyTarget:
    """Target of a decision."""
    return next(t for t in TARGETS.values() if isinstance(decision, t.decision_type))
