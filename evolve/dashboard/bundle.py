"""The bundle: documents packed for one file. `static/unpack.js` is its other half.

Programs and prompts of a run repeat each other line by line, and a program decides as its parent does on most shapes:
each line, each text and each outcome is kept once, and decisions as what differs from the parent's.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from typing import Any

from evolve.dashboard.views.candidate import Packable
from evolve.dashboard.views.documents import ExpeditionView, Outcome
from evolve.dashboard.views.recording import Recording

TEXTS = ("system", "user", "answer", "error", "message", "source", "feedback")
OUTCOME_FIELDS = tuple(Outcome.__annotations__)


class _Numbers(dict[str, int]):
    """Numbers for texts, in order of first use."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def pack_candidates(candidates: Iterable[Packable], recording: Recording | None) -> dict[str, Any]:
    """Candidates of one run; nodes are left to the lineage document.

    A row is [id, numbers of its texts, proposal that `picks` starts from or None, `picks`, constants]; `picks` are
    numbers of outcomes by shape, or where it starts from another's, [shape, number, shape, number, ...].
    """
    lines, texts = _Numbers(), _Numbers()
    chosen: dict[int, list[int]] = {}
    packed = []
    expeditions: dict[int, ExpeditionView] = {}
    for c in candidates:
        if c.expedition is not None:
            expeditions[c.id] = c.expedition
        numbers = [texts[str(c.texts[name])] for name in TEXTS]
        picks = chosen[c.id] = c.picks
        before = chosen.get(c.parent) if c.parent is not None else None
        if before and picks:
            pairs = [x for i, (old, new) in enumerate(zip(before, picks, strict=True)) if old != new for x in (i, new)]
            packed.append([c.id, numbers, c.parent, pairs, c.constants])
        else:
            packed.append([c.id, numbers, None, picks, c.constants])
    documents = [[lines[line] for line in text.split("\n")] for text in texts]
    known = recording.outcomes_known if recording else []
    return {
        "texts": TEXTS,
        "outcome_fields": OUTCOME_FIELDS,
        "lines": list(lines),
        "documents": documents,
        "outcomes": [[[o[f] for f in OUTCOME_FIELDS] for o in row] for row in known],  # type: ignore[literal-required]
        "candidates": packed,
        "expeditions": expeditions,
    }


def block(data: object) -> str:
    """A document as text that is inert anywhere in a page: JSON, gzip, base64."""
    raw = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
