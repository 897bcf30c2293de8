"""Targets by name, setting or decision."""

from __future__ import annotations

from dataclasses import replace

from evaluators.data.contract import SETTINGS, Setting
from evaluators.data.errors import UserError
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.targets.fa3 import FA3, FA3_LENGTHS
from evaluators.targets.target import AnyTarget
from evaluators.targets.triton_decode import TRITON_DECODE, TRITON_DECODE_LENGTHS

TARGETS: dict[str, AnyTarget] = {FA3.name: FA3, TRITON_DECODE.name: TRITON_DECODE}
TOLD: dict[str, AnyTarget] = {FA3.name: FA3_LENGTHS, TRITON_DECODE.name: TRITON_DECODE_LENGTHS}
"""Targets whose `schedule` is told live lengths, by the name of the target without."""


def target_of(setting: Setting) -> AnyTarget:
    """Target of a setting: the one named like its provider, or FA3."""
    plain = TARGETS.get(setting.provider, FA3)
    return TOLD[plain.name] if setting.live_lengths else plain


def with_live_lengths(setting: Setting) -> Setting:
    """The setting with `schedule` told the live lengths.

    Raises:
        UserError: a setting in which they decide nothing.
    """
    if not target_of(setting).asks_work(setting):
        raise UserError(f"no live lengths are known in static mode ({setting.name})", hint="a setting with metadata")
    return replace(setting, live_lengths=True)


def told_target(name: str) -> AnyTarget:
    """The target of programs by its own name, where they are told live lengths, too."""
    return {t.name: t for t in (*TARGETS.values(), *TOLD.values())}[name]


def target_of_name(setting: str) -> AnyTarget:
    """Target by the name of a setting, or of several settings joined by ` + `, as in journals.

    Names do not say whether live lengths are told.
    """
    return TARGETS.get(setting.partition("-")[0], FA3)


def target_of_decision(decision: AnyDecision) -> AnyTarget:
    """Target of a decision."""
    return next(t for t in TARGETS.values() if isinstance(decision, t.decision_type))


def kernel_hint(status: Status, setting: str, option: str) -> str:
    """Hint for a program that fails as one of another kernel does: by fields and answers that this one has not.

    Args:
        status: how it failed.
        setting: setting that it was asked for, or several joined by ` + `.
        option: beginning of the option that names a setting; empty where none does.

    Returns:
        An empty text for other failures.
    """
    if status not in (Status.BAD_ANSWER, Status.RAISED):
        return ""
    target = target_of_name(setting)
    other = next(name for name in SETTINGS if target_of_name(name) is not target)
    asked = f"it was asked for {setting} ({target.name})"
    return f"{asked}; for another kernel: {option}{other}" if option else asked
