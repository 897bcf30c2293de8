"""Recheck of a program that would become best: in another process, order and hash seed, and on neighbouring shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.evaluation import OVERFIT, OVERFIT_SHARE, Evaluation
from evaluators.data.launches import AnyDecision
from evaluators.data.questions import Answers, Question
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.language.gate import Program
from evaluators.sandbox.process import Limits
from evaluators.sandbox.sandbox import Sandbox
from evaluators.scoring.overfit import neighbours, overfit_gain, overfit_part, penalised
from evaluators.targets.registry import target_of
from evaluators.targets.target import AnyTarget

HASH_SEED = 1
"""Hash seed of the second process; the first has 0."""

ORDER_SEED = 20250


@dataclass(frozen=True, slots=True)
class RecheckResult:
    """Decisions of a program that was run again.

    Attributes:
        decisions: per question, in the order of the questions.
        near: decisions on the neighbours of each question.
    """

    status: Status
    message: str
    decisions: tuple[AnyDecision, ...]
    near: tuple[tuple[AnyDecision, ...], ...]


class ShuffledSandbox:
    """Sandbox for the same questions and their neighbours, shuffled together. Thread-safe."""

    def __init__(
        self,
        gpu: Gpu,
        questions: Sequence[Question],
        near: Sequence[Sequence[Question]],
        limits: Limits,
        *,
        target: AnyTarget,
        hidden: Collection[int],
    ) -> None:
        """Shuffle once; every program sees the same order.

        Args:
            gpu: as in `Sandbox`.
            questions: questions of the first evaluation.
            near: neighbours of each question.
            limits: limits of the first evaluation; the time grows with the number of questions.
            target: as in `Sandbox`.
            hidden: questions that messages must not reveal, nor their neighbours.

        Raises:
            SandboxUnavailable: this system cannot confine candidates.
        """
        self._sizes = [len(group) for group in near]
        together = [*questions, *(q for group in near for q in group)]
        self._order = list(range(len(together)))
        random.Random(ORDER_SEED).shuffle(self._order)
        time_s = limits.time_s * max(1.0, len(together) / max(1, len(questions)))
        owner = [*range(len(questions)), *(i for i, group in enumerate(near) for _ in group)]
        self._sandbox = Sandbox(
            gpu,
            [together[i] for i in self._order],
            Limits(time_s, limits.memory_mb),
            target=target,
            hidden=[at for at, i in enumerate(self._order) if owner[i] in hidden],
        )
        self._questions = len(questions)

    def ask(self, run: Callable[[Sandbox], Answers]) -> RecheckResult:
        """Run a program: `run` passes it to the sandbox."""
        answers = run(self._sandbox)
        if answers.status is not Status.OK:
            return RecheckResult(answers.status, answers.message, (), ())
        placed: dict[int, AnyDecision] = dict(zip(self._order, answers.decisions, strict=True))
        flat = [placed[i] for i in range(len(placed))]
        near, start = [], self._questions
        for size in self._sizes:
            near.append(tuple(flat[start : start + size]))
            start += size
        return RecheckResult(Status.OK, "", tuple(flat[: self._questions]), tuple(near))


Gains = Callable[[Sequence[tuple[str, AnyDecision]]], list[float | None]]
"""Function from decisions on cases to log speed-ups; None for a decision without a latency."""


def difference(first: Sequence[AnyDecision], second: Sequence[AnyDecision]) -> int | None:
    """Index of the first differing decision; None if all are equal."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)


class Recheck:
    """Second run of programs, with tests of stability and overfitting. Thread-safe."""

    def __init__(
        self,
        cases: Mapping[str, tuple[DecodeShape, Question]],
        *,
        setting: Setting,
        weights: Mapping[Split, Mapping[str, float]],
        gpu: Gpu,
        limits: Limits,
    ) -> None:
        """Find the neighbours of every case.

        Args:
            cases: shape and question by case id, in the order of the first evaluation.
            setting: provider, mode and cache of the calls.
            weights: share of each case in the score of its split.
            gpu: as in `Sandbox`.
            limits: limits of the first evaluation.
        """
        self._weights = weights
        self._target = target = target_of(setting)
        self._near = {i: neighbours(shape, target.block_n(shape, setting)) for i, (shape, _) in cases.items()}
        asked = [question for _, question in cases.values()]
        near = [[target.question(shape, setting, gpu) for _, shape in row] for row in self._near.values()]
        self._shown = weights.get(Split.TRAIN, {})
        hidden = {at for at, i in enumerate(cases) if i not in self._shown}
        self._shuffled = ShuffledSandbox(gpu, asked, near, limits, target=target, hidden=hidden)

    def run(self, program: Program, evaluation: Evaluation, gains: Gains) -> Evaluation:
        """Run a program again and return its evaluation with the recheck's findings.

        The program runs in another process, with another hash seed, in another order and among near-by shapes. Any
        difference makes it `UNSTABLE`. If much of its gain is overfit, the overfit part is subtracted from its scores.

        `evaluation` is the program's first, with status `OK`; `gains` looks up gains of near-by shapes' decisions.
        """
        again = self._shuffled.ask(lambda sandbox: sandbox.ask(program, hash_seed=HASH_SEED))
        problem = f"when asked again, with near-by shapes: {again.status.value}: {again.message}"
        if again.status is Status.OK:
            found = difference(evaluation.decisions, again.decisions)
            if found is None:
                return self._marked(evaluation, again, gains)
            problem = "decided otherwise when asked again in another process and order: decide by the arguments alone"
            case_id = list(self._near)[found]
            if case_id in self._shown:
                first, second = (self._target.text(d[found]) for d in (evaluation.decisions, again.decisions))
                problem += f"; {case_id}: first {first}, then {second}"
        return Evaluation(Status.UNSTABLE, problem, evaluation.source_hash, evaluation.normal_form)

    def _marked(self, evaluation: Evaluation, again: RecheckResult, gains: Gains) -> Evaluation:
        decided = dict(zip(self._near, again.near, strict=True))
        own = zip(self._near, again.decisions, strict=True)
        known: dict[tuple[str, AnyDecision], float | None] = {
            (i, d): math.log(evaluation.speedups.get(i, 1.0)) for i, d in own
        }
        others = {(i, d): None for i, near in decided.items() if evaluation.speedups.get(i, 1.0) > 1 for d in near}
        wanted = [pair for pair in others if pair not in known]
        known |= zip(wanted, gains(wanted), strict=True)
        parts: dict[str, tuple[float, float]] = {}
        for case_id, near in self._near.items():
            gain = math.log(evaluation.speedups.get(case_id, 1.0))  # without a recorded latency there is no gain
            answers = zip(near, decided[case_id], strict=True)
            parts[case_id] = (gain, overfit_part(gain, [(axis, known.get((case_id, d))) for (axis, _), d in answers]))
        overfit = {split: overfit_gain(parts, weights) for split, weights in self._weights.items()}
        train = overfit[Split.TRAIN]
        features = {**evaluation.features, OVERFIT_SHARE: round(train.share, 6)}
        if not train.marked or evaluation.overfit:
            return replace(evaluation, features=features)
        lowered = [
            score and penalised(score, overfit[split])
            for score, split in zip((evaluation.train, evaluation.holdout, evaluation.test), Split, strict=True)
        ]
        return replace(
            evaluation,
            train=lowered[0],
            holdout=lowered[1],
            test=lowered[2],
            features={**features, OVERFIT: 1.0},
            message=f"memorised: {100 * train.share:.0f}% of the gain on the training shapes sits in decisions that no "
            "neighbouring shape shares (one key, block or sequence more or less); taken off the score",
        )
