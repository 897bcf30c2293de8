"""Recorded tables of a run, in the order of its programs' decisions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from evaluators.data.workloads import Case
from evaluators.judge.judge_set import table_labels
from evolve.dashboard.views.documents import Outcome, ShapeCase
from evolve.dashboard.views.recorded_table import RecordedTable


class Recording:
    """Tables of a run, usually one. With several, a shape's name begins with its table's."""

    def __init__(self, tables: Sequence[RecordedTable]) -> None:
        """Combine tables in the order of the run's judge."""
        self.tables = tuple(tables)
        labels = table_labels([t.card for t in tables])
        self.cards = [{"label": label, **t.card} for label, t in zip(labels, tables, strict=True)]
        self._prefixes = [f"{label}/" for label in labels] if len(tables) > 1 else [""]
        self._judged = sum(t.judged for t in tables)

    @property
    def cases(self) -> tuple[Case, ...]:
        """Shapes of all tables."""
        return tuple(c for t in self.tables for c in t.cases)

    @property
    def outcomes_known(self) -> list[list[Outcome]]:
        """Known outcomes by shape."""
        return [known for t in self.tables for known in t.outcomes]

    def names(self, *, whole: bool) -> list[str]:
        """Names of shapes in this run's documents, or names that match other runs' tables."""
        if not whole:
            return [p + c.id for p, t in zip(self._prefixes, self.tables, strict=True) for c in t.cases]
        return [
            "/".join((t.card["workload"], t.card["setting"], t.card["gpu"], c.id)) for t in self.tables for c in t.cases
        ]

    @cached_property
    def oracle_speedup(self) -> dict[str, float]:
        """Gain of the oracle by split, or by table and split with several tables."""
        if len(self.tables) == 1:
            return self.tables[0].oracle_speedup()
        every = zip(self.cards, self.tables, strict=True)
        return {f"{card['label']} {s}": v for card, t in every for s, v in t.oracle_speedup().items()}

    @cached_property
    def shape_cases(self) -> list[ShapeCase]:
        """All cases with their launches."""
        every = zip(self._prefixes, self.tables, strict=True)
        return [c for number, (prefix, t) in enumerate(every) for c in t.shape_cases(number, prefix)]

    def picks(self, decisions: str) -> list[int]:
        """Indices into `outcomes_known` of a program's decisions, by shape; empty without decisions.

        Args:
            decisions: JSON of the journal.
        """
        # Compared as text: programs share nearly all decisions, so most need not be parsed.
        rows = decisions.replace(" ", "")[2:-2].split("],[")
        if len(rows) != self._judged:
            return []
        found: list[int] = []
        start = 0
        for table in self.tables:
            found += table.picks(rows[start : start + table.judged])
            start += table.judged
        return found

    def outcomes(self, decisions: str) -> list[Outcome]:
        """Outcomes of a program's decisions; shared objects where decisions repeat."""
        picks = self.picks(decisions)
        return [known[k] for known, k in zip(self.outcomes_known, picks, strict=True)] if picks else []
