"""The gate and the detection of stagnation, on evaluations made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluators.data.evaluation import OVERFIT, Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.agent.drafts import Draft, draft_of, gate, stagnation
from evolve.agent.tools import TOOLS, BadArguments, function, offered, parse_call

PARENT = Draft(0, "p", Status.OK, "", 1.02, 3, 0, "dp", {"complexity": 50.0}, False)


def evaluated(score: float, regressions: int = 3, *, missing: int = 0, **features: float) -> Evaluation:
    train = SplitScore(score, score, 0.5, regressions, 0.9, 10, 0, 0, missing)
    return Evaluation(Status.OK, decisions_hash="d1", train=train, features={"complexity": 50.0, **features})


def refused(found: Evaluation, *, opens: bool = False, decisions: str = "d1", more: int = 0) -> list[str]:
    draft = replace(draft_of(1, "s", found, charged=True), decisions=decisions)
    return gate(PARENT, draft, found, lambda _: opens, more_regressions=more)


def test_as_good_as_the_parent_passes() -> None:
    assert refused(evaluated(1.02)) == [] and refused(evaluated(1.05, 0)) == []


def test_worse_passes_only_into_an_empty_cell() -> None:
    assert "opens no cell" in refused(evaluated(1.01))[0] and refused(evaluated(1.01), opens=True) == []


def test_regressions_and_unrecorded_shapes_count_together() -> None:
    assert (
        refused(evaluated(1.05, 4))
        and refused(evaluated(1.05, 3, missing=1))
        and not refused(evaluated(1.05, 4), more=1)
    )


def test_what_was_learnt_by_heart_is_refused_whatever_it_scores() -> None:
    assert "by heart" in refused(evaluated(1.5, 0, **{OVERFIT: 1.0}))[0]


def test_the_parents_decisions_pass_only_if_simpler() -> None:
    assert refused(evaluated(1.02), decisions="dp") and not refused(evaluated(1.02, complexity=40.0), decisions="dp")


def test_what_fails_the_recheck_is_refused() -> None:
    unstable = Evaluation(Status.UNSTABLE, "decided differently")
    draft = draft_of(1, "s", evaluated(1.5), charged=True)
    assert gate(PARENT, draft, unstable, lambda _: True) == ["it fails: unstable: decided differently"]


def drafts(*rows: tuple[float, str]) -> list[Draft]:
    return [
        replace(PARENT, number=n, score=score, decisions=key, status=Status.OK if key else Status.RAISED)
        for n, (score, key) in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize(
    ("rows", "since", "told"),
    [
        ([], 0, ""),
        ([(1.0, "a"), (1.01, "b")], 0, ""),
        ([(1.0, "a"), (1.01, "b"), (1.0, "c")], 0, "3 drafts in a row brought no gain"),
        ([(1.0, "a"), (1.03, "b"), (1.0, "c"), (1.0, "d")], 0, ""),
        ([(1.03, "b"), (1.0, "c"), (1.0, "d"), (1.02, "e")], 0, "3 drafts in a row brought no gain"),
        ([(0, ""), (0, ""), (0, "")], 0, "the last 3 drafts failed"),
        ([(1.03, "a"), (1.03, "a"), (1.04, "b"), (1.03, "a")], 0, "the same decisions came 3 times"),
        ([(1.0, "dp"), (1.03, "a"), (1.0, "dp")], 0, "the same decisions came 3 times"),
        ([(1.0, "a"), (1.01, "b"), (1.0, "c")], 3, ""),
        ([(1.0, "a"), (1.01, "b"), (1.0, "c"), (1.0, "d")], 3, ""),
    ],
)
def test_stagnation_is_told(rows: list[tuple[float, str]], since: int, told: str) -> None:
    assert stagnation(PARENT, drafts(*rows), since, stall=3) == told


def test_calls_are_checked_against_the_schema() -> None:
    names = offered(fit=False)
    assert "fit" not in names and "fit" in offered(fit=True) and set(offered(fit=True)) == set(TOOLS)
    assert parse_call("curve", '{"shape": "s"}', names).shape == "s"  # type: ignore[attr-defined]
    for name, text, said in (
        ("shell", "{}", "no tool 'shell'"),
        ("fit", '{"draft": 1}', "no tool 'fit'"),
        ("curve", "{", "not JSON"),
        ("curve", "[]", "its arguments: shape, draft"),
        ("curve", '{"shape": "s", "split": "holdout"}', "split: Extra inputs"),
        ("submit", '{"draft": 0, "hypothesis": "h"}', "draft"),
        ("note", '{"draft": 1, "text": ""}', "text"),
    ):
        with pytest.raises(BadArguments, match=said):
            parse_call(name, text, names)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_what_it_does_and_takes(name: str) -> None:
    told = function(name)["function"]
    assert len(told["description"]) > 30 and told["parameters"]["additionalProperties"] is False
    assert all(field["description"] for field in told["parameters"]["properties"].values())
