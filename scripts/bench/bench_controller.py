"""Overhead of the controller per proposal, without proposer and sandbox, at 1,000 programs.

Prints milliseconds per proposal over the last 200 of 1,200 proposals. The judge and the proposer here cost nothing.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from evaluators.data.contract import Decision
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.config import parse_config
from evolve.proposal import Request, Response
from evolve.search.controller import Controller, Progress

SEED = "# EVOLVE-BLOCK-START\ndef schedule(shape, gpu):\n    x = 10\n    return x, None, 0\n# EVOLVE-BLOCK-END\n"
PROPOSALS = 1200
MEASURED = 200


class FreeJudge:
    """Scores the number in the program."""

    def __init__(self) -> None:
        self.description: dict[str, str] = {}
        self.grows = False

    def evaluate(self, source: str) -> Evaluation:
        """Answer at once."""
        found = re.search(r"x = (\d+)", source)
        assert found
        value = int(found.group(1))
        rng = random.Random(value)
        score = SplitScore(1 + rng.random() / 10, 1.0, 0.5, 0, 1.0, 5, 0, 0)
        features = {"complexity": rng.random(), "mean_splits": rng.random(), "share_changed": rng.random()}
        return Evaluation(
            Status.OK,
            source_hash=source,
            normal_form=source,
            decisions_hash=str(value),
            train=score,
            holdout=score,
            features=features,
        )

    def score(self, source: str, decisions: Sequence[Decision]) -> Evaluation:
        """Give the same evaluation again."""
        return self.evaluate(source)

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation unchanged."""
        return evaluation


class FreeProposer:
    """A new number each time."""

    name = "free"

    async def propose(self, request: Request) -> Response:
        """Answer at once."""
        return Response(f"```python\n{SEED.replace('10', str(request.index + 10))}```", "free")

    async def aclose(self) -> None:
        """Nothing to release."""


def main() -> None:
    """Run and print."""
    config = parse_config({"search": {"proposals": PROPOSALS, "feature_bins": 12, "window": 4}})
    times: list[float] = []

    def watch(_: Progress) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        Controller(config, FreeJudge(), FreeProposer(), Path(folder), seeds=[SEED], on_progress=watch).run()
    each = (times[-1] - times[-1 - MEASURED]) / MEASURED
    print(f"{1e3 * each:.2f} ms per proposal at {PROPOSALS - MEASURED}..{PROPOSALS} proposals")


if __name__ == "__main__":
    main()
