"""The bundle: documents packed for one file; `static/unpack.js` unpacks them.

Programs and prompts of a run share most lines, and a program decides like its parent on most shapes: each line, text
and outcome is stored once, and decisions as differences to the parent's.
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
    """Numbers of texts, in order of first use."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def pack_candidates(candidates: Iterable[Packable], recording: Recording | None) -> dict[str, Any]:
    """Pack the candidates of one run; nodes are in the lineage document.

    A row is [id, numbers of its texts, proposal that `picks` refers to or None, `picks`, constants]; `picks` are
    numbers of outcomes by shape, or as differences to another proposal [shape, number, shape, number, ...].
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
    """Encode a document as text that is inert in a page: JSON, gzip, base64."""
    raw = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
