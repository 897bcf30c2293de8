"""The report: all views of some runs in one file, whose documents are packed; `static/unpack.js` unpacks them.

Programs and prompts of a run share most lines, and a program decides like its parent on most shapes: each line, text
and outcome is stored once, and decisions as differences to the parent's.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

from evolve import __version__
from evolve.dashboard.page import page
from evolve.dashboard.views.candidate import Packable, candidates
from evolve.dashboard.views.documents import ExpeditionView, Outcome
from evolve.dashboard.views.grid import grid, replay
from evolve.dashboard.views.lineage import lineage, story
from evolve.dashboard.views.overview import overview
from evolve.dashboard.views.overview import runs as runs_document
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recording import Recording
from evolve.dashboard.views.shapes import recording_of, shapes

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


def report(readers: Sequence[RunReader]) -> str:
    """Build the page with the documents of all views."""
    runs = []
    blocks = {}
    for number, reader in enumerate(readers):
        recording, missing = recording_of(reader)
        known = replay(reader)
        runs.append(
            {
                "name": reader.name,
                "overview": overview(reader, recording),
                "lineage": lineage(reader, known),
                "grid": grid(reader, known),
                "story": story(reader),
            }
        )
        blocks[f"data-shapes-{number}"] = block(shapes(reader, recording, missing))
        blocks[f"data-candidates-{number}"] = block(pack_candidates(candidates(reader, recording), recording))
    index = {"version": __version__, "runs": runs, "lines": runs_document(readers)}
    return page({"data-index": block(index), **blocks}, live=False)
