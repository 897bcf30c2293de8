"""Prompts: templates filled with the parent, its scores and feedback, lessons of earlier attempts, inspirations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluators.data.evaluation import Evaluation, Feedback
from evaluators.language.subset import describe
from evaluators.scoring.feedback import render
from evolve.prompts.lessons import Lessons
from evolve.prompts.templates import Templates, fill
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import ProgramRecord

MAX_TOKENS = 6000
"""Of a whole prompt, as estimated. The parent is always shown whole, at the expense of everything else."""
FEEDBACK_SHARE = 0.55
"""Of the tokens that system message, parent and answer format leave; lessons get theirs next, inspirations the rest."""
LESSONS_SHARE = 0.25
SHOWN_STEPS = (12, 9, 6, 4, 2, 1)
"""Numbers of shapes and regions of each kind that are listed, most first, until they fit."""
MIN_SOURCE_TOKENS = 150
"""An inspiration cut shorter than this says nothing."""

UNKNOWN = "not known"


def _scores(evaluation: Evaluation) -> str:
    train = evaluation.train
    if train is None:
        return "not scored"
    return (
        f"score {train.score:.4f}, speed-up {train.geomean_speedup:.4f}x, {100 * train.oracle_share:.1f}% of what is "
        f"possible, {train.regressions} regressions, worst shape {train.worst_speedup:.3f}x"
    )


class Prompts:
    """Writes the prompts of one run."""

    def __init__(self, templates: Templates, description: Mapping[str, str]) -> None:
        """Fill the system message, which is the same for all proposals.

        Args:
            templates: the texts.
            description: what the judge says of itself.
        """
        self._templates = templates
        keys = ("workload", "setting", "weighting", "gpu", "build")
        measured = ", ".join(description[key] for key in keys if key in description) or UNKNOWN
        self.system = fill(templates.system, {"measured": measured, "language": describe()})
        self._system_tokens = estimate_tokens(self.system)

    def user(
        self, parent: ProgramRecord, inspirations: Sequence[ProgramRecord], lessons: Lessons, *, diff: bool
    ) -> str:
        """Everything that differs between proposals, within `MAX_TOKENS` unless the parent alone is longer."""
        how = self._templates.diff if diff else self._templates.rewrite
        fixed = (self._templates.user, parent.source, how, _scores(parent.evaluation))
        room = MAX_TOKENS - self._system_tokens - sum(map(estimate_tokens, fixed))
        feedback = _feedback(parent.evaluation.feedback, int(room * FEEDBACK_SHARE))
        told = _lessons(lessons, int(room * LESSONS_SHARE))
        room -= estimate_tokens(feedback) + estimate_tokens(told)
        values = {
            "scores": _scores(parent.evaluation),
            "parent": parent.source,
            "feedback": feedback,
            "lessons": told,
            "inspirations": _inspirations(inspirations, room),
            "how": how,
        }
        return fill(self._templates.user, values)


def _feedback(feedback: Feedback, room: int) -> str:
    for shown in SHOWN_STEPS:
        text = render(feedback, shown=shown)
        if estimate_tokens(text) <= room:
            return text
    return ""


def _lessons(lessons: Lessons, room: int) -> str:
    """The newest of each kind that fit; this program's own come first, and what one kind leaves the next may take."""
    kinds = (
        ("Edits of this program that were tried already, with what came of them (do not repeat them):", lessons.tried),
        ("Edits of this program that failed:", lessons.failed),
        ("Other recent failures:", lessons.island),
    )
    parts = []
    for left, (title, texts) in zip((3, 2, 1), kinds, strict=True):
        share = room // left - estimate_tokens(title) - 2
        kept: list[str] = []
        for text in reversed(texts):
            line = "- " + " ".join(text.split())
            share -= estimate_tokens(line) + 1
            if share < 0:
                break
            kept.insert(0, line)
        if kept:
            parts.append("\n".join([title, *kept]))
            room -= estimate_tokens(parts[-1]) + 1
    return "\n\n".join(parts)


def _inspirations(others: Sequence[ProgramRecord], room: int) -> str:
    parts = []
    for left, other in zip(range(len(others), 0, -1), others, strict=True):
        title = f"Another program ({_scores(other.evaluation)}):"
        source = _cut(other.source, room // left - estimate_tokens(title) - 10)
        if source:
            parts.append(f"{title}\n```python\n{source}```")
            room -= estimate_tokens(parts[-1]) + 1
    return "\n\n".join(parts)


def _cut(source: str, limit: int) -> str:
    """The whole source, its first lines, or nothing when too little would be left."""
    if estimate_tokens(source) <= limit:
        return source
    if limit < MIN_SOURCE_TOKENS:
        return ""
    kept: list[str] = []
    for line in source.splitlines(keepends=True):
        limit -= estimate_tokens(line)
        if limit < 0:
            break
        kept.append(line)
    return "".join(kept) + "# ... cut\n"
