from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.errors import UserError
from evolve.proposer_config import OfflineConfig, OpenAIConfig
from evolve.search.bandit import EXPLORE, Bandit, OneModel, open_choice

DOLLARS = st.one_of(st.just(0.0), st.floats(1e-9, 5))
TWO = [("a", 1.0), ("b", 3.0)]


def test_configured_weights_rule_until_something_is_gained() -> None:
    bandit = Bandit(TWO, shifting=True)
    assert bandit.shares() == [0.25, 0.75]
    bandit.commit("a", gain=0.0, usd=0.1, tokens=5)
    assert bandit.shares() == [0.25, 0.75]


def test_without_shifting_they_rule_for_ever() -> None:
    bandit = Bandit(TWO, shifting=False)
    bandit.commit("a", gain=1.0, usd=0.1, tokens=5)
    assert bandit.shares() == [0.25, 0.75]


def shares_after(a: dict[str, Any], b: dict[str, Any]) -> list[float]:
    """Shares of two models after ten answers of each like these."""
    bandit = Bandit([("a", 1.0), ("b", 1.0)], shifting=True)
    for _ in range(10):
        bandit.commit("a", **a)
        bandit.commit("b", **b)
    return bandit.shares()


def test_the_model_that_gains_more_is_asked_more() -> None:
    first, second = shares_after({"gain": 0.01, "usd": 0.1, "tokens": 5}, {"gain": 0.0, "usd": 0.1, "tokens": 5})
    assert first > 0.7 and second >= EXPLORE / 2


def test_equal_gains_favour_the_cheaper() -> None:
    first, second = shares_after({"gain": 0.01, "usd": 1.0, "tokens": 5}, {"gain": 0.01, "usd": 0.1, "tokens": 5})
    assert second > 3 * first


def test_a_model_that_has_become_better_is_found_again() -> None:
    bandit = Bandit([("a", 1.0), ("b", 1.0)], shifting=True)
    for _ in range(30):
        bandit.commit("a", gain=0.02, usd=0.1, tokens=5)
    before = bandit.shares()[1]
    for _ in range(150):
        bandit.commit("a", gain=0.0, usd=0.1, tokens=5)
        bandit.commit("b", gain=0.001, usd=0.1, tokens=5)
    assert bandit.shares()[1] > max(before, 0.5)


def test_tokens_count_where_a_model_has_no_price() -> None:
    first, second = shares_after({"gain": 0.01, "usd": 0.5, "tokens": 100}, {"gain": 0.01, "usd": 0.0, "tokens": 1000})
    assert first > 3 * second


@given(st.lists(st.tuples(st.sampled_from("abx"), st.floats(0, 2), DOLLARS, st.integers(0, 9999)), max_size=60))
def test_shares_are_a_distribution_that_leaves_nobody_out(calls: list[tuple[str, float, float, int]]) -> None:
    bandit = Bandit(TWO, shifting=True)
    for model, gain, usd, tokens in calls:
        bandit.commit(model, gain=gain, usd=usd, tokens=tokens)
    shares = bandit.shares()
    assert sum(shares) == pytest.approx(1.0)
    assert all(share >= EXPLORE * prior * 0.999 for share, prior in zip(shares, (0.25, 0.75), strict=True))


def test_choices_follow_from_the_seed_and_the_commits_alone() -> None:
    def chosen(noise: int) -> list[str]:
        bandit = Bandit(TWO, shifting=True)
        names = []
        for index in range(60):
            random.seed(noise + index)
            names.append(bandit.choose(index, 7919 * index))
            bandit.commit(names[-1], gain=0.01 * (names[-1] == "a"), usd=0.1, tokens=5)
        return names

    assert chosen(1) == chosen(2)
    assert {"a", "b"} == set(chosen(1))


def test_one_model_is_no_choice() -> None:
    for config in (OfflineConfig(), OpenAIConfig(model="m")):
        choice = open_choice(config)
        assert isinstance(choice, OneModel) and choice.choose(1, 2) == ""


@pytest.mark.parametrize(
    ("proposer", "message"),
    [
        ({}, "name one model under `model`, or several under `models`"),
        ({"model": "m", "models": [{"name": "a"}]}, "name one model"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "names a model twice"),
        ({"models": [{"name": "a", "weight": 0}]}, r"models\.0\.weight"),
        ({"models": [{"nmae": "a"}]}, r"models\.0\.n"),
    ],
)
def test_mistakes_in_models_are_named(proposer: dict[str, object], message: str) -> None:
    from evolve.config import parse_config

    with pytest.raises(UserError, match=message):
        parse_config({"proposer": {"kind": "openai", **proposer}})
