"""Decisions of a program and the kernel's launches, on any shape, without latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Setting, lacking
from evaluators.data.launches import AnyDecision
from evaluators.data.questions import Answers
from evaluators.data.status import Status
from evaluators.fa3.dispatch import check_call, is_local
from evaluators.language.gate import Program, ProgramRefused, parse_program
from evaluators.sandbox.sandbox import Limits, Sandbox, self_test
from evaluators.targets.registry import target_of
from evolve.errors import EXIT_NEGATIVE, UserError

AT_ONCE = 1000
"""Shapes for one sandbox process, whose limits suit about this number."""


class NoDecisions(UserError):
    """A program was refused or failed; the message begins with its status."""

    def __init__(self, status: Status, message: str) -> None:
        """Store the status beside the message."""
        super().__init__(f"{status.value}: {message}", exit_code=EXIT_NEGATIVE)
        self.status = status


def check_runs(shape: DecodeShape, setting: Setting) -> None:
    """Check that the setting's provider has a kernel for a call; head sizes between the compiled ones are padded.

    Raises:
        ValueError: no kernel; the message names the missing feature and the settings that have it.
    """
    check_call(shape, setting)
    lacks = [name for name in lacking(shape, setting) if name != "window" or is_local(shape, setting)]
    if lacks:
        others = (
            " vllm-metadata-cold has it"
            if "sinks" in lacks
            else "s upstream-metadata-cold and vllm-metadata-cold have it"
        )
        raise ValueError(f"{setting.provider} has no kernel with {' and '.join(lacks)}: the setting{others}")


def decide_shapes(
    source: str, rows: Sequence[tuple[DecodeShape, Setting]], gpu: Gpu | None = None
) -> list[dict[str, dict[str, Any]]]:
    """Decision and launch of each shape, in the form of `evosplit decide --json`.

    All settings are of one target; without a GPU launches are those of an H100 SXM.

    Raises:
        NoDecisions: the gate refuses the program, or it fails on a shape.
        UserError: a call that the provider cannot run; see `check_runs`.
    """
    for shape, setting in rows:
        try:
            check_runs(shape, setting)
        except ValueError as error:
            raise UserError(f"{shape.as_json()}: {error}") from error
    try:
        program = parse_program(source)
    except ProgramRefused as refused:
        raise NoDecisions(refused.status, str(refused)) from refused
    gpu = gpu or Gpu()
    found = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        answers = _ask(program, part, gpu)
        if answers.status is not Status.OK:
            raise NoDecisions(answers.status, answers.message)
        for (shape, setting), decision in zip(part, answers.decisions, strict=True):
            found.append(_described(shape, setting, decision, gpu))
    return found


def _ask(program: Program, rows: Sequence[tuple[DecodeShape, Setting]], gpu: Gpu) -> Answers:
    """Run the program in the sandbox; where a process cannot be confined, under limits of time and memory alone."""
    target = target_of(rows[0][1])
    questions = [target.question(shape, setting, gpu) for shape, setting in rows]
    return Sandbox(gpu, questions, Limits(), target=target, confined=self_test().ok).ask(program)


def _described(shape: DecodeShape, setting: Setting, decision: AnyDecision, gpu: Gpu) -> dict[str, dict[str, Any]]:
    """A decision and its launch as JSON."""
    target = target_of(setting)
    spelled = target.spelled_out(shape, setting, decision, gpu)
    launch = target.launch(shape, setting, decision, gpu)
    live = launch.live_splits * (shape.batch // len(launch.live_splits))
    return {
        "shape": {**shape.as_json(), "mode": setting.mode.value, "paged": setting.paged, "dtype": setting.dtype},
        "decision": dict(zip(target.names, decision.as_row(), strict=True)),
        "launch": {
            "num_splits": spelled.num_splits,
            "live_splits": list(live),
            **target.launch_values(launch),
            "workspace_bytes": target.workspace_bytes(shape, spelled),
            "key": launch.key,
        },
    }
