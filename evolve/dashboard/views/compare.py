"""Comparison of two candidates, of one run or of two. `static/view_compare.js` makes the same document in the page."""

from __future__ import annotations

from collections.abc import Mapping

from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.documents import Candidate, Compare, ConfigChange, DecisionChange, Side
from evolve.dashboard.views.overview import curve, settings_of
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recording import Recording

DECIDED = ("num_splits", "blocks_per_split", "pack_gqa", "sm_margin", "variant")

Chosen = tuple[RunReader, int, Recording | None]
"""A run, a proposal of it, and the run's recorded table."""


def compare(a: Chosen, b: Chosen) -> Compare:
    """Document of the comparison of two proposals.

    Raises:
        UserError: no such proposal.
    """
    (reader_a, _, table_a), (reader_b, _, table_b) = a, b
    one, other = candidate(*a), candidate(*b)
    compared, decisions = _decisions(one, other, table_a, table_b)
    return Compare(
        view="compare",
        a=_side(reader_a, one),
        b=_side(reader_b, other),
        config=config_changes(*(settings_of(r.meta.get("config", "")) for r in (reader_a, reader_b))),
        shapes_compared=compared,
        decisions=decisions,
    )


def _side(reader: RunReader, found: Candidate) -> Side:
    node = found["node"]
    return Side(run=reader.name, id=node["id"], node=node, source=found["source"], curve=curve(reader.nodes))


def _decisions(
    one: Candidate, other: Candidate, table_a: Recording | None, table_b: Recording | None
) -> tuple[int, list[DecisionChange]]:
    if table_a is None or table_b is None or not one["outcomes"] or not other["outcomes"]:
        return 0, []
    # With several tables, a shape is matched by workload, setting and GPU.
    whole = len(table_a.tables) > 1 or len(table_b.tables) > 1
    theirs = dict(
        zip(table_b.names(whole=whole), zip(table_b.names(whole=False), other["outcomes"], strict=True), strict=True)
    )
    compared = 0
    changes = []
    for name, case, ours in zip(table_a.names(whole=whole), table_a.cases, one["outcomes"], strict=True):
        if name not in theirs:
            continue
        compared += 1
        shown, yours = theirs[name]
        if any(ours[key] != yours[key] for key in DECIDED):  # type: ignore[literal-required]
            changes.append(DecisionChange(case=shown, split=case.split.value, a=ours, b=yours))
    return compared, changes


def config_changes(a: Mapping[str, str], b: Mapping[str, str]) -> list[ConfigChange]:
    """Keys whose values differ between two configurations, as `settings_of` flattens them."""
    return [
        ConfigChange(key=key, a=a.get(key, ""), b=b.get(key, ""))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]
