"""Plan of a sweep: its runs by label, each with a whole configuration of its own."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.assets import asset
from evolve.config import RunConfig, load_config
from evolve.errors import UserError

MAX_RUNS = 1000
"""Most runs of one sweep; more would be a mistake."""

SEED_KEY = "random_seed"
SEEDS_HINT = "for example --seeds 0..9, or --seeds 0,3,7"


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep.

    Attributes:
        label: name of its folder below the sweep's.
        variant: differences to the other runs, except the random seed; runs of one variant are summarised together.
        config: whole configuration, as for `evosplit run`.
    """

    label: str
    variant: str
    config: RunConfig


def parse_seeds(text: str) -> tuple[int, ...]:
    """Random seeds of `0..9` (both ends included) or `0,3,7`.

    Raises:
        UserError: neither form, a range that runs backwards, a seed twice, or too many.
    """
    first, dots, last = text.partition("..")
    parts = [first, last] if dots else text.split(",")
    if not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", part) for part in parts):
        raise UserError(f"--seeds {text}: expected whole numbers from 0", hint=SEEDS_HINT)
    numbers = [int(part) for part in parts]
    if dots:
        if numbers[1] < numbers[0]:
            raise UserError(f"--seeds {text}: the range runs backwards", hint=f"--seeds {numbers[1]}..{numbers[0]}")
        if numbers[1] - numbers[0] >= MAX_RUNS:
            raise UserError(f"--seeds {text}: more than {MAX_RUNS} runs", hint="start several sweeps")
        return tuple(range(numbers[0], numbers[1] + 1))
    twice = [n for n, count in Counter(numbers).items() if count > 1]
    if twice:
        raise UserError(f"--seeds {text}: {twice[0]} twice", hint="equal runs find equal programs")
    return tuple(numbers)


def split_values(text: str) -> tuple[str, ...]:
    """The alternatives of `a,b`; commas inside brackets, braces or quotes do not separate, so that lists stay whole."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return tuple(parts)


def plan_sweep(path: Path, sets: Sequence[str], seeds: str | None) -> list[Member]:
    """Plan every combination of the values of `--set key=a,b` and of the seeds.

    Raises:
        UserError: the configuration or a value is wrong, or there is nothing to vary.
    """
    numbers = parse_seeds(seeds) if seeds is not None else None
    fixed, axes = [], []
    for text in sets:
        key, _, value = text.partition("=")
        values = split_values(value)
        if key == SEED_KEY and numbers is not None:
            raise UserError(f"--set {text} beside --seeds", hint="leave one of them out")
        if len(values) == 1:
            fixed.append(text)
        elif "" in (v.strip() for v in values):
            raise UserError(f"--set {text}: an empty value between the commas", hint=f"--set {key}=a,b")
        else:
            axes.append([(key, v.strip()) for v in values])
    if numbers is None and not axes:
        raise UserError("nothing to sweep over", hint=f"{SEEDS_HINT}, or --set search.window=2,4")
    file = asset(str(path))
    seed_axis: list[list[tuple[str, str]]] = [] if numbers is None else [[(SEED_KEY, str(n)) for n in numbers]]
    members = []
    combinations = list(itertools.product(*axes, *seed_axis))
    if len(combinations) > MAX_RUNS:
        raise UserError(f"{len(combinations)} runs, more than {MAX_RUNS}", hint="start several sweeps")
    for chosen in combinations:
        config = load_config(file, [*fixed, *(f"{key}={value}" for key, value in chosen)])
        what = [(key, value) for key, value in chosen if key != SEED_KEY]
        variant = ", ".join(f"{key}={value}" for key, value in what) or config.name
        label = "_".join([*(f"{key.rpartition('.')[2]}-{value}" for key, value in what), f"seed-{config.random_seed}"])
        members.append(Member(label, variant, config))
    return _distinct(members)


def plan_runs(paths: Sequence[Path], sets: Sequence[str]) -> list[Member]:
    """Plan one run for each of several configuration files.

    Raises:
        UserError: a configuration is missing or wrong, or two are the same.
    """
    found = []
    for path in paths:
        config = load_config(asset(str(path)), list(sets))
        found.append(Member(config.name, path.stem, config))
    return _distinct(found)


def _distinct(members: Sequence[Member]) -> list[Member]:
    """Runs with distinct labels that can name folders; refuses equal runs."""
    labels: Counter[str] = Counter()
    seen: dict[str, str] = {}
    result: list[Member] = []
    for member in members:
        # The name of a run changes no result.
        same = member.config.model_copy(update={"name": "run"}).model_dump_json()
        if same in seen:
            raise UserError(
                f"{seen[same]} and {member.label} are the same run twice",
                hint="a search follows from its configuration; evosplit sweep CONFIG --seeds 0..3 varies the seed",
            )
        seen[same] = member.label
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", member.label).strip("-.")[:100] or "run"
        labels[base] += 1
        label = base if labels[base] == 1 else f"{base}-{labels[base]}"
        if any(m.label == label for m in result):
            raise UserError(f"two runs would be called {label}", hint="give the configurations different names")
        result.append(Member(label, member.variant, member.config))
    return result
