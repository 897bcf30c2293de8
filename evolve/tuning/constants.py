"""Constant fitting: a numeric search for the numbers of a program with the best training score.

It looks latencies up in the recorded table and asks no model: thousands of decision tables cost less than one answer.
 `coordinate` needs nothing beyond the base install; `tpe` is Optuna's sampler (extra `fit`).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluators.data.workloads import Split
from evaluators.judge.fast_score import Fit, Scorer
from evaluators.judge.judge import Judge
from evaluators.language.gate import Program
from evaluators.language.literals import Number
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.sandbox.tables import Tables
from evolve.errors import EXIT_MISSING, UserError
from evolve.tuning.tunables import Tunable, rewritten, tunables

Method = Literal["coordinate", "tpe"]
Objective = Callable[[Sequence[Number]], float]

FIRST_STEP, LEAST_STEP, MOST_STEP = 0.15, 0.02, 0.7
"""Standard deviation of a move in the logarithm of a number: at first, at least, at most."""

JUMP, PAIR = 0.1, 0.25
"""Share of moves that go anywhere within the bounds, and of those that move a second number."""


class Unfit(Exception):
    """The program's constants cannot be fitted; the message says why."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A program with fitted constants.

    Attributes:
        before: training score with its own constants.
        after: training score with the fitted ones.
        evaluations: decision tables that were scored.
        distinct: number of distinct ones among them.
        look_ups: latencies looked up: training shapes times evaluations.
    """

    source: str
    before: float
    after: float
    tunables: int
    evaluations: int
    distinct: int
    look_ups: int


class ConstantFitter:
    """Fits programs on the training shapes of a judge. Not thread-safe."""

    def __init__(self, judge: Judge) -> None:
        """Prepare the judge's questions and latencies."""
        self._tables = Tables(judge.gpu, judge.questions, judge.limits, target=judge.target)
        self._scorer = Scorer(judge)
        self.train_shapes = len(judge.weights[Split.TRAIN])

    def fit(
        self,
        program: Program,
        *,
        evaluations: int,
        seed: int,
        method: Method = "coordinate",
        stopped: threading.Event | None = None,
    ) -> Fitted:
        """Fit a program.

        Args:
            program: a program that has passed the gate.
            evaluations: most decision tables to score, including the program's own.
            seed: random seed.
            method: name of the search.
            stopped: event that ends the fit.

        Raises:
            Unfit: the program has no number to move or no score, or the fit was stopped.
            SandboxUnavailable: no process could be started.
            UserError: the method needs the extra `fit`.
        """
        known = tunables(program, self._tables.target)
        if not known:
            raise Unfit("the program holds no number that may move")
        search = search_of(method)
        with self._tables.open(program, {t.position: (t.low, t.high) for t in known}) as opened:
            own = self._fits(opened.run([t.value for t in known]))
            if own is None:
                raise Unfit("the program itself has no score")
            tables: set[bytes] = set()
            spent = 1

            def objective(numbers: Sequence[Number]) -> float:
                nonlocal spent
                if stopped is not None and stopped.is_set():
                    raise Unfit("stopped")
                spent += 1
                decisions = opened.run(numbers)
                if decisions is None:
                    return 0.0
                tables.add(decisions.digest())
                found = self._fits(decisions)
                return 0.0 if found is None else found.score

            best, score = search(objective, known, own.score, evaluations - 1, random.Random(seed))
        moved = [(t, n) for t, n in zip(known, best, strict=True) if n != t.value]
        look_ups = spent * self.train_shapes
        source = rewritten(program, moved)
        return Fitted(source, own.score, score, len(known), spent, len(tables), look_ups)

    def _fits(self, decisions: DecisionArrays | None) -> Fit | None:
        found = None if decisions is None else self._scorer.fits(decisions)
        return None if found is None else found[Split.TRAIN]


def search_of(method: Method) -> Callable[..., tuple[list[Number], float]]:
    """A numeric search by name.

    Raises:
        UserError: it needs the extra `fit`.
    """
    return coordinate_search if method == "coordinate" else _optuna_search()


def coordinate_search(
    objective: Objective, known: Sequence[Tunable], score: float, evaluations: int, rng: random.Random
) -> tuple[list[Number], float]:
    """Move one or two numbers at a time and keep what is better.

    The score is a step function of each number, so that neither gradients nor models of it help much; each number
    learns its own step from its successes.
    """
    best = [t.value for t in known]
    steps = [FIRST_STEP] * len(known)
    seen = {tuple(best)}
    tries, most = 0, 20 * (evaluations + len(known))
    while evaluations > 0 and tries < most:
        tries += 1
        chosen = rng.sample(range(len(known)), 2 if len(known) > 1 and rng.random() < PAIR else 1)
        numbers = list(best)
        for at in chosen:
            numbers[at] = _moved(known[at], best[at], steps[at], rng)
        if tuple(numbers) in seen:
            continue
        seen.add(tuple(numbers))
        evaluations -= 1
        found = objective(numbers)
        better = found > score
        if better:
            best, score = numbers, found
        for at in chosen:
            steps[at] = min(MOST_STEP, max(LEAST_STEP, steps[at] * (1.6 if better else 0.93)))
    return best, score


def _moved(tunable: Tunable, now: Number, step: float, rng: random.Random) -> Number:
    if rng.random() < JUMP:
        return tunable.at(tunable.low * (tunable.high / tunable.low) ** rng.random())
    wanted = now * 2.718281828459045 ** rng.gauss(0.0, step)
    if isinstance(now, int) and round(wanted) == now:
        wanted = now + rng.choice((-1, 1))
    return tunable.at(wanted)


def _optuna_search() -> Callable[..., tuple[list[Number], float]]:
    """Search with Optuna's TPE, with the signature of `coordinate_search`."""
    try:
        import optuna
    except ImportError as error:
        hint = "pip install 'evosplit[fit]', or constants.method: coordinate"
        raise UserError("constants.method tpe needs Optuna", hint=hint, exit_code=EXIT_MISSING) from error

    def search(
        objective: Objective, known: Sequence[Tunable], score: float, evaluations: int, rng: random.Random
    ) -> tuple[list[Number], float]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=rng.randrange(2**31), multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial({f"x{i}": float(t.value) for i, t in enumerate(known)})
        best, best_score = [t.value for t in known], score

        def trial_score(trial: Any) -> float:
            nonlocal best, best_score
            asked = [trial.suggest_float(f"x{i}", t.low, t.high, log=True) for i, t in enumerate(known)]
            numbers = [t.at(value) for t, value in zip(known, asked, strict=True)]
            found = objective(numbers)
            if found > best_score:
                best, best_score = numbers, found
            return found

        for _ in range(evaluations):
            trial = study.ask()
            study.tell(trial, trial_score(trial))
        return best, best_score

    return search
