"""Prompts: templates filled with the parent, its scores and feedback, lessons, and inspirations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from evaluators.data.evaluation import Evaluation, Feedback
from evaluators.data.gain import MIN_REGRESSION, REGRESSION_ERRORS
from evaluators.language.subset import describe
from evaluators.scoring.feedback import FeedbackText
from evaluators.scoring.overfit import TABLE_BITS
from evaluators.scoring.score import CHARGE, REGRESSION_PENALTY
from evaluators.targets.registry import TOLD, target_of_name
from evaluators.targets.target import AnyTarget
from evolve.config import PromptsConfig, SandboxConfig
from evolve.prompts.lessons import PROMPT_RULES, Lessons
from evolve.prompts.templates import Templates, fill
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import ProgramRecord

FEEDBACK_SHARE, LESSONS_SHARE = 0.55, 0.25
"""Shares of the tokens that system message, parent and answer format leave. Inspirations get the remainder, and
feedback also the tokens that lessons and inspirations do not use."""
SHOWN_STEPS = (64, 48, 32, 24, 18, 12, 9, 6, 4, 2, 1)
"""Numbers of listed shapes and regions of each kind, tried in this order until they fit; since rules 2 also any number
in between."""
WIDTH = 120
MIN_SOURCE_TOKENS = 150
"""Shortest inspiration: a shorter excerpt is useless."""

UNKNOWN = "not known"


def _scores(evaluation: Evaluation) -> str:
    train = evaluation.train
    if train is None:
        return "not scored"
    return (
        f"score {train.score:.4f}, speed-up {train.geomean_speedup:.4f}x, {100 * train.oracle_share:.1f}% of what is "
        f"possible, {train.regressions} regressions, worst shape {train.worst_speedup:.3f}x"
        + (f", {train.missing} shapes not recorded" if train.missing else "")
    )


def limits_text(target: AnyTarget, time_s: float, memory_mb: int, workspace_cap_mb: str) -> str:
    """Limits of a program and penalties of the score, as text."""
    return (
        f"All shapes together, some 1,500 calls, must be decided within {time_s:g} s of CPU time and {memory_mb} MiB. "
        f"A decision may need {workspace_cap_mb} MiB of workspace, which is {target.workspace_rule}. "
        f"Each regression, slower by more than max({100 * MIN_REGRESSION:.0f}%, "
        f"{REGRESSION_ERRORS:g} standard errors), costs {100 * REGRESSION_PENALTY:.2f}% of the score and its weighted "
        f"slow-down a second time. Numbers of more than {TABLE_BITS} bits in all are taken for a table learnt by heart "
        "and gain nothing; so do decisions that shapes one key, block or sequence away do not share."
    )


def recordable_text(target: AnyTarget, *, live: bool) -> str:
    """Description of the decisions that can be scored."""
    if live:
        return "Launches are measured on a GPU when a program first asks for them: every decision can be scored."
    return (
        "Latencies are looked up in a recording, and between two recorded launches interpolated: "
        f"{target.recordable}. Shapes with others have no recorded latency: they are {CHARGE}."
    )


class Prompts:
    """Writer of the prompts of one run."""

    def __init__(
        self,
        templates: Templates,
        description: Mapping[str, str],
        *,
        max_tokens: int = PromptsConfig().max_tokens,
        sandbox: SandboxConfig = SandboxConfig(),  # noqa: B008 (frozen)
        rules: int = PROMPT_RULES,
    ) -> None:
        """Fill in the system message, which is the same for all proposals.

        `max_tokens` is the estimated length of a complete prompt; the parent is never cut, at the expense of the rest.
        For `rules` see `PROMPT_RULES`.
        """
        self._templates, self._max_tokens, self._rules = templates, max_tokens, rules
        keys = ("workload", "traffic", "setting", "weighting", "gpu", "build")
        measured = ", ".join(description[key] for key in keys if key in description) or UNKNOWN
        target = target_of_name(description.get("setting", ""))
        if "live_lengths" in description:
            target = TOLD[target.name]
        cap_mb = description.get("workspace_cap_mb", UNKNOWN)
        values = {
            "measured": measured,
            "variants": ", ".join(map(str, target.variants or ())),
            "sees": target.sees,
            "language": describe(target),
            "limits": textwrap.fill(limits_text(target, sandbox.time_s, sandbox.memory_mb, cap_mb), WIDTH),
            "recordable": textwrap.fill(recordable_text(target, live="measure" in description), WIDTH),
        }
        self.system = fill(templates.system, values)
        self._system_tokens = estimate_tokens(self.system)

    def user(
        self, parent: ProgramRecord, inspirations: Sequence[ProgramRecord], lessons: Lessons, *, diff: bool
    ) -> str:
        """User message of a proposal, within `max_tokens` unless the parent alone is longer."""
        how = self._templates.diff if diff else self._templates.rewrite
        fixed = (self._templates.user, parent.source, how, _scores(parent.evaluation))
        room = self._max_tokens - self._system_tokens - sum(map(estimate_tokens, fixed))
        told = _lessons(lessons, int(room * LESSONS_SHARE))
        if self._rules == 1:
            feedback = _feedback(parent.evaluation.feedback, int(room * FEEDBACK_SHARE))
            others = _inspirations(inspirations, room - estimate_tokens(feedback) - estimate_tokens(told))
        else:
            others = _inspirations(inspirations, room - int(room * FEEDBACK_SHARE) - estimate_tokens(told))
            left = room - estimate_tokens(told) - estimate_tokens(others)
            feedback = _feedback(parent.evaluation.feedback, left, exactly=True)
        values = {
            "scores": _scores(parent.evaluation),
            "parent": parent.source,
            "feedback": feedback,
            "lessons": told,
            "inspirations": others,
            "how": how,
        }
        return fill(self._templates.user, values)


def _feedback(feedback: Feedback, room: int, *, exactly: bool = False) -> str:
    """Longest feedback that fits, in steps, or with `exactly` to the shape."""
    above, told = SHOWN_STEPS[0], FeedbackText(feedback)
    for shown in SHOWN_STEPS:
        text = told.render(shown)
        if estimate_tokens(text) <= room:
            break
        above = shown
    else:
        return ""
    while exactly and above - shown > 1:
        between = (shown + above) // 2
        longer = told.render(between)
        if estimate_tokens(longer) <= room:
            text, shown = longer, between
        else:
            above = between
    return text


def _lessons(lessons: Lessons, room: int) -> str:
    """Newest lessons of each kind that fit, this program's own first; each kind may use the room left by the last."""
    kinds = (
        ("Edits of this program that were tried already, idea -> result (do not repeat them):", lessons.tried),
        ("Edits of this program that failed, idea -> reason:", lessons.failed),
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
    """Complete source, its first lines, or nothing if too little would be left."""
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
