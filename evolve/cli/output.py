"""What verbs print: JSON on one line of stdout, tables, text of unknown origin made safe for a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from evaluators.evaluation import SplitScore
    from evolve.run_folder import Best, RunSummary

SPLIT_NOTES = {"train": "drives the search", "holdout": "picks the winner", "test": "sealed"}


def write_json(data: dict[str, Any]) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(data, allow_nan=False) + "\n")


def console(*, to_stderr: bool = False) -> Console:
    """Where tables go: stdout, or stderr where stdout carries JSON. Colour and width follow the terminal."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    # 110 columns where there is no terminal to ask: no cell of our tables is cut.
    return Console(file=stream, width=None if stream.isatty() else 110, highlight=False, markup=False, soft_wrap=False)


def safe(text: str) -> str:
    """Text of a model or a candidate with control characters spelled out: they could drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Any:
    """A table with text left and numbers right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = [[str(value) for value in row] for row in rows]
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        cells = [row[index].rstrip("%x").replace(".", "").replace("/", "") for row in rows]
        numbers = bool(cells) and all(not c or c == "-" or c.lstrip("-").isdigit() for c in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(safe, row))
    return table


def score_json(score: SplitScore | None) -> dict[str, Any] | None:
    """Scores of one split; the keys are those of docs/schema/."""
    return None if score is None else asdict(score)


def scores_table(scores: dict[str, SplitScore | None], *, title: str = "") -> Any:
    """Scores by split, side by side."""
    columns = ("shapes", "", "score", "speed-up", "oracle's gain", "regressions", "worst shape", "workspace", "count")
    rows = [
        (
            name,
            SPLIT_NOTES.get(name, ""),
            f"{s.score:.4f}",
            f"{s.geomean_speedup:.4f}x",
            f"{100 * s.oracle_share:.1f}%",
            s.regressions,
            f"{s.worst_speedup:.3f}x",
            f"{s.workspace_bytes / 2**20:.0f} MiB",
            s.shapes,
        )
        for name, s in scores.items()
        if s is not None
    ]
    return rows_table(columns, rows, title=title)


def best_json(best: Best | None) -> dict[str, Any] | None:
    """The winner of a run."""
    if best is None:
        return None
    return {
        "id": best.id,
        "path": str(best.path),
        "complexity": best.complexity,
        "train": score_json(best.train),
        "holdout": score_json(best.holdout),
    }


def summary_json(summary: RunSummary) -> dict[str, Any]:
    """A run in short."""
    return {
        "run": summary.run,
        "path": str(summary.path),
        "proposals": summary.proposals,
        "wanted": summary.wanted,
        "statuses": summary.statuses,
        "tokens": summary.tokens,
        "cost_usd": summary.cost_usd,
        "best": best_json(summary.best),
    }


def outcomes_text(summary: RunSummary) -> str:
    """How the proposals of a run ended, e.g. `312 ok, 61 duplicate, 27 unrecorded`."""
    counts = sorted(summary.statuses.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {status}" for status, count in counts) or "none yet"
