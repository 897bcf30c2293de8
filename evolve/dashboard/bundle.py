"""The bundle: documents packed for one file. `static/unpack.js` is its other half.

Programs and prompts of a run repeat each other line by line, and programs decide alike on most shapes: each line and
each outcome is kept once, and what refers to them compresses well.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from evolve.dashboard.documents import Candidate, Outcome

TEXTS = ("system", "user", "answer", "error", "message", "source", "feedback")
OUTCOME_FIELDS = tuple(Outcome.__annotations__)


class _Interner:
    """Numbers for hashable things, in order of first use."""

    def __init__(self) -> None:
        self.number: dict[Any, int] = {}

    def __call__(self, item: Any) -> int:
        return self.number.setdefault(item, len(self.number))


def pack_candidates(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Candidates of one run with lines and outcomes kept once; nodes are left to the lineage document."""
    lines = _Interner()
    cases: list[list[Outcome]] = []
    numbers: list[dict[int, int]] = []
    packed = []
    for c in candidates:
        texts = [[lines(line) for line in str(c[name]).split("\n")] for name in TEXTS]  # type: ignore[literal-required]
        picks = []
        for i, outcome in enumerate(c["outcomes"]):
            if i == len(cases):
                cases.append([])
                numbers.append({})
            # Equal outcomes are one object (Recording.outcomes), which is cheaper to look up than its fields.
            k = numbers[i].setdefault(id(outcome), len(cases[i]))
            if k == len(cases[i]):
                cases[i].append(outcome)
            picks.append(k)
        packed.append([c["node"]["id"], texts, picks, c["constants"]])
    return {
        "texts": TEXTS,
        "outcome_fields": OUTCOME_FIELDS,
        "lines": list(lines.number),
        "outcomes": [[[o[f] for f in OUTCOME_FIELDS] for o in known] for known in cases],  # type: ignore[literal-required]
        "candidates": packed,
    }


def block(data: object) -> str:
    """A document as text that is inert anywhere in a page: JSON, gzip, base64."""
    raw = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
