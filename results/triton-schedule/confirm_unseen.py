"""`evosplit confirm` of a program for the Triton kernel on sealed and fresh shapes alone, within a given time.

    python results/triton-schedule/confirm_unseen.py PROGRAM -o FOLDER --fresh 400 --minutes 1
    python results/triton-schedule/confirm_unseen.py PROGRAM -o FOLDER --config configs/llama31-70b-triton-paged.yaml
    python results/triton-schedule/confirm_unseen.py PROGRAM -o FOLDER --against ANOTHER    # instead of FA3

The verb's own suite also holds the training and holdout shapes, which say nothing new and take most of the time. Shapes
come in a random order: those that the time left out are counted in the report. Needs an H100.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluators.confirm.confirm as suite
from evaluators.confirm.confirm import Group, Subject
from evolve.cli import confirm

SECONDS = 20.0
"""CPU time for the decisions of all shapes at once, of which the suite has more than a table."""


def main() -> None:
    """Build the suite, leave out what is known, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/llama31-70b-triton.yaml"))
    parser.add_argument("--against", help="another program, instead of FA3")
    parser.add_argument("--fresh", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=1.0)
    options = parser.parse_args()
    whole = suite.build_suite

    def unseen(*arguments: Any, **named: Any) -> Sequence[Subject]:
        return [s for s in whole(*arguments, **named) if s.group is not Group.CHANGED]

    confirm.build_suite = unseen  # type: ignore[assignment]
    sys.exit(
        confirm.confirm_command(
            options.program, options.config, [f"sandbox.time_s={SECONDS}"], against=options.against, beside=None,
            output=options.o, minutes=options.minutes, fresh=options.fresh, tokens=False, as_json=False,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
