"""Everything measured that a run was judged on, table after table, as its programs' decisions are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from evaluators.data.workloads import Case
from evaluators.judge.judge_set import table_labels
from evolve.dashboard.views.documents import Outcome, ShapeCase
from evolve.dashboard.views.recorded_table import RecordedTable


class Recording:
    """The tables of a run, most often one. With several, a shape's name begins with its table's."""

    def __init__(self, tables: Sequence[RecordedTable]) -> None:
        """Take tables in the order in which the run was judged on them."""
        self.tables = tuple(tables)
        labels = table_labels([t.card for t in tables])
        self.cards = [{"label": label, **t.card} for label, t in zip(labels, tables, strict=True)]
        self._prefixes = [f"{label}/" for label in labels] if len(tables) > 1 else [""]
        self._judged = sum(t.judged for t in tables)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The shapes of all tables."""
        return tuple(c for t in self.tables for c in t.cases)

    @property
    def outcomes_known(self) -> list[list[Outcome]]:
        """By shape, every outcome that was asked for so far."""
        return [known for t in self.tables for known in t.outcomes]

    def names(self, *, whole: bool) -> list[str]:
        """By shape, its name in this run's documents, or one that other runs' tables can be matched with."""
        if not whole:
            return [p + c.id for p, t in zip(self._prefixes, self.tables, strict=True) for c in t.cases]
        return [
            "/".join((t.card["workload"], t.card["setting"], t.card["gpu"], c.id)) for t in self.tables for c in t.cases
        ]

    @cached_property
    def oracle_speedup(self) -> dict[str, float]:
        """What the oracle gains, by split; by table and split where there are several tables."""
        if len(self.tables) == 1:
            return self.tables[0].oracle_speedup()
        every = zip(self.cards, self.tables, strict=True)
        return {f"{card['label']} {s}": v for card, t in every for s, v in t.oracle_speedup().items()}

    @cached_property
    def shape_cases(self) -> list[ShapeCase]:
        """Every case with its launches."""
        every = zip(self._prefixes, self.tables, strict=True)
        return [c for number, (prefix, t) in enumerate(every) for c in t.shape_cases(number, prefix)]

    def picks(self, decisions: str) -> list[int]:
        """Which of `outcomes_known` a program's decisions come to, by shape; empty where it decided nothing.

        Args:
            decisions: the journal's JSON.
        """
        # Told apart as text: programs share nearly all decisions, and most need not be parsed.
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
