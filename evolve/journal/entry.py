"""Rows of a journal as records: one proposal, and totals."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from evaluators.data.evaluation import OVERFIT, OVERFIT_SHARE, Evaluation, SplitScore
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.targets.target import AnyTarget
from evolve.proposal import Response


@dataclass(frozen=True, slots=True)
class Entry:
    """One proposal with all its data; fields of stages not reached are None or empty.

    `spent` is the cost of the answer, also if the proposer gave up and `answer` is None.
    """

    id: int
    kind: str
    island: int
    parent: int | None
    inspirations: tuple[int, ...]
    diff: bool
    seed: int
    system: str
    user: str
    answer: Response | None
    error: str
    status: Status | None
    message: str
    source: str
    source_hash: str
    normal_form: str
    decisions_hash: str
    decisions: tuple[AnyDecision, ...]
    train: SplitScore | None
    holdout: SplitScore | None
    features: dict[str, float]
    feedback: str
    duplicate_of: int | None
    displaced: tuple[int, ...]
    elapsed_s: float
    asked_model: str
    spent: Response
    gpu_s: float

    @property
    def overfit(self) -> bool:
        """True if the recheck lowered the scores."""
        return OVERFIT in self.features

    @property
    def rechecked(self) -> bool:
        """True if the program was rechecked, and can win."""
        return OVERFIT_SHARE in self.features


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed proposal as the search needs it: its entry without texts and decisions."""

    id: int
    island: int
    parent: int
    asked_model: str
    usd: float
    tokens: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Spending:
    """Cost of a run so far, including failed calls that were billed.

    `gpu_s` is the time of measurements on a GPU; 0 on recorded tables. `look_ups` counts those of proposers, without
    the judge's own.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    gpu_s: float = 0.0
    look_ups: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers together."""
        return self.tokens_in + self.tokens_out


WinnerOrder = tuple[bool, float, float, int]
"""See `winner_order`."""


def winner_order(features: Mapping[str, float], score: float, index: int) -> WinnerOrder:
    """Sort key of possible winners: rechecked ones first, then by score, simplicity and age.

    A program is rechecked if it is among the best two of its island on the training shapes; `score` is that on the
    holdout, if there is one.
    """
    return OVERFIT_SHARE not in features, -score, features.get("complexity", 0.0), index


def storable(text: str) -> str:
    """Text without lone surrogates, which are possible in JSON, but not in UTF-8."""
    return text.encode("utf-8", "replace").decode()


def score_of(text: str | None) -> SplitScore | None:
    """Inverse of `score_text`.

    Raises:
        ValueError: not a score.
        TypeError: an unknown or missing field.
    """
    if not text:
        return None
    score = SplitScore(**json.loads(text))
    for name, value in asdict(score).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"a score's {name} is {value!r}")
    return score


def score_text(score: SplitScore | None) -> str | None:
    """Serialise a score for the journal."""
    return None if score is None else json.dumps(asdict(score))


def decisions_text(decisions: tuple[AnyDecision, ...]) -> str:
    """Serialise a decision table for the journal: rows of numbers, in the order of the cases."""
    return json.dumps([d.as_row() for d in decisions], separators=(",", ":"))


def evaluation_of(entry: Entry) -> Evaluation:
    """Evaluation of an entry, without the feedback on single shapes."""
    return Evaluation(
        entry.status or Status.CRASHED,
        entry.message,
        entry.source_hash,
        entry.normal_form,
        entry.decisions_hash,
        entry.decisions,
        entry.train,
        entry.holdout,
        features=entry.features,
    )


COMMIT_QUERY = """SELECT r.id, p.island, p.parent, p.asked_model, ifnull(a.cost_usd, 0) AS usd,
    ifnull(a.tokens_in + a.tokens_out, 0) AS tokens, r.status, r.source_hash, r.train, r.holdout, r.features
    FROM results r JOIN proposals p ON p.id = r.id LEFT JOIN answers a ON a.id = r.id
    WHERE p.kind = 'proposal' ORDER BY r.id"""
"""Rows for `commit_of`."""


def commit_of(row: sqlite3.Row) -> Commit:
    """Parse a row of `COMMIT_QUERY`."""
    evaluation = Evaluation(
        Status(row["status"]),
        source_hash=row["source_hash"],
        train=score_of(row["train"]),
        holdout=score_of(row["holdout"]),
        features=json.loads(row["features"]),
    )
    index, island, parent, asked_model, usd, tokens, *_ = row
    return Commit(index, island, parent, asked_model, usd, tokens, evaluation)


def entry_of(row: sqlite3.Row, target: AnyTarget) -> Entry:
    """Parse a joined row of proposals, answers and results."""
    spent = Response("", "")
    if row["text"] is not None:
        names = ("text", "model", "note", "tokens_in", "tokens_out", "cost_usd", "answer_s", "look_ups")
        spent = Response(*(row[name] for name in names))
    answer = None if row["text"] is None or row["error"] else spent
    done = row["status"] is not None
    return Entry(
        id=row["id"],
        kind=row["kind"],
        island=row["island"],
        parent=row["parent"],
        inspirations=tuple(json.loads(row["inspirations"])),
        diff=bool(row["diff"]),
        seed=row["seed"],
        system=row["system"],
        user=row["user"],
        answer=answer,
        error=row["error"] or "",
        status=Status(row["status"]) if done else None,
        message=row["message"] or "",
        source=row["source"] or "",
        source_hash=row["source_hash"] or "",
        normal_form=row["normal_form"] or "",
        decisions_hash=row["decisions_hash"] or "",
        decisions=tuple(target.from_row(d) for d in json.loads(row["decisions"] or "[]")),
        train=score_of(row["train"]),
        holdout=score_of(row["holdout"]),
        features=json.loads(row["features"] or "{}"),
        feedback=row["feedback"] or "",
        duplicate_of=row["duplicate_of"],
        displaced=tuple(json.loads(row["displaced"] or "[]")),
        elapsed_s=row["elapsed_s"] or 0.0,
        asked_model=row["asked_model"],
        spent=spent,
        gpu_s=row["gpu_s"] or 0.0,
    )
