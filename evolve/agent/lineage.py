"""Earlier programs of a run for an agent: training scores, hypotheses, reasons of failure. No holdout."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from evaluators.data.status import Status
from evolve.journal.entry import score_of
from evolve.journal.journal import Journal
from evolve.journal.turns import TurnKind
from evolve.prompts.lessons import lesson_of

MOST_LISTED = 40
LINE_CHARS = 240
NOTES_TOLD = 20


@dataclass(frozen=True, slots=True)
class EarlierPrograms:
    """Results of all proposals below `settled`, which were known when the expedition began.

    Attributes:
        settled: see `evolve.proposal.Request`.
    """

    journal: Journal
    settled: int
    parent: int

    def listed(self, *, relatives: bool) -> str:
        """One line per program, the newest last."""
        rows = self._rows()
        if relatives:
            family = self._family(rows)
            rows = [row for row in rows if row["id"] in family]
        left_out = max(0, len(rows) - MOST_LISTED)
        lines = [self._line(row) for row in rows[left_out:]]
        if left_out:
            lines.insert(0, f"({left_out} older ones left out)")
        return "\n".join(lines) or "nothing but the parent yet"

    def show(self, index: int) -> str:
        """One program with its result."""
        row = self._row(index)
        if row is None:
            return self._unknown(index)
        source = row["source"] or "(no program came)"
        return f"{self._line(row)}\n```python\n{source}```"

    def diff(self, before: int, after: int) -> str:
        """Changed lines between two programs."""
        rows = [self._row(index) for index in (before, after)]
        for index, row in zip((before, after), rows, strict=True):
            if row is None:
                return self._unknown(index)
        one, other = (row["source"].splitlines() for row in rows if row is not None)
        changed = list(difflib.unified_diff(one, other, f"#{before}", f"#{after}", n=1, lineterm=""))
        scores = "\n".join(self._line(row) for row in rows if row is not None)
        return scores + "\n" + ("\n".join(changed) or "the same text")

    def notes(self) -> list[str]:
        """Lessons of earlier expeditions, newest last, each with its evidence."""
        turns = self.journal.turns("kind = ? AND name = 'note' AND id < ?", (TurnKind.TOOL.value, self.settled))
        kept = [turn for turn in turns if "note" in turn.facts]
        return [f"- {t.facts['note']} (proposal {t.id}, {t.facts['evidence']})" for t in kept[-NOTES_TOLD:]]

    def without_gain(self, island: int, *, most: int) -> int:
        """Number of consecutive last expeditions of an island, at most `most`, without a gain over their parent."""
        rows = self.journal.select(
            "SELECT r.status, r.train, parent.train AS before FROM results r JOIN proposals p ON p.id = r.id "
            "JOIN results parent ON parent.id = p.parent "
            "WHERE p.kind = 'proposal' AND p.island = ? AND r.id < ? ORDER BY r.id DESC LIMIT ?",
            (island, self.settled, most),
        )
        count = 0
        for row in rows:
            train, before = score_of(row["train"]), score_of(row["before"])
            if row["status"] == Status.OK.value and train and before and train.score > before.score:
                break
            count += 1
        return count

    def _rows(self) -> list[Any]:
        return self.journal.select(f"{_QUERY} WHERE r.id < ? ORDER BY r.id", (self.settled,))

    def _row(self, index: int) -> Any:
        rows = self.journal.select(f"{_QUERY} WHERE r.id = ? AND r.id < ?", (index, self.settled))
        return rows[0] if rows else None

    def _unknown(self, index: int) -> str:
        return f"there is no program {index} here; lineage_list names those that are known"

    def _family(self, rows: list[Any]) -> set[int]:
        parents = {row["id"]: row["parent"] for row in rows}
        ancestors, at = [self.parent], parents.get(self.parent)
        while at is not None:
            ancestors.append(at)
            at = parents.get(at)
        return {*ancestors, *(i for i, parent in parents.items() if parent in ancestors[:2])}

    def _line(self, row: Any) -> str:
        index, made = row["id"], "seed" if row["parent"] is None else f"from #{row['parent']}"
        if row["parent"] is None:
            train = score_of(row["train"])
            result = f"score {train.score:.4f}, {train.regressions} regressions" if train else row["status"]
        else:
            result = lesson_of(self.journal, index).line
        said = f"#{index} ({made}, island {row['island']}): {result}"
        return said if len(said) <= LINE_CHARS else f"{said[: LINE_CHARS // 2]} ... {said[-LINE_CHARS // 2 :]}"


_QUERY = """SELECT r.id, p.parent, p.island, r.status, r.train, r.source
    FROM results r JOIN proposals p ON p.id = r.id"""
