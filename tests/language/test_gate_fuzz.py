"""Mutated programs through the gate, with the checks of fuzz_gate.py; hypothesis steers towards fewer refusals.

The coverage-guided fuzzer itself runs in `make fuzz`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from attacks import ATTACKS
from conftest import ROOT, examples, load_script
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from evaluators.language.gate import parse_program

SCRIPT = ROOT / "tests" / "faults" / "fuzz_gate.py"


FUZZ = load_script(SCRIPT)
STARTS = FUZZ.starting_points()
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(FUZZ.TOKENS)), min_size=1, max_size=6)


def mutated(source: str, changes: list[tuple[float, int, str]]) -> str:
    for place, length, token in changes:
        at = int(place * len(source))
        source = source[:at] + token + source[at + length :]
    return source


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(STARTS), edits)
def test_mutated_programs_are_refused_or_harmless(source: str, changes: list[tuple[float, int, str]]) -> None:
    target(-float(FUZZ.check_program(mutated(source, changes))))


@settings(max_examples=examples(30), deadline=None)
@given(st.sampled_from(STARTS), edits)
def test_mutated_answers_are_refused_or_harmless(source: str, changes: list[tuple[float, int, str]]) -> None:
    FUZZ.check_answer(mutated(f"```python\n{source}```", changes))


def test_the_checks_find_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluators.language.gate

    parse_program.cache_clear()
    monkeypatch.setattr(evaluators.language.gate, "check", lambda tree, source: ())
    try:
        for attack in (
            "runs code in an annotation",
            "runs code in a lambda",
            "reads a file of the user",
            "answers with an object that claims to be an int",
        ):
            with pytest.raises(FUZZ.Hole):
                FUZZ.check_program(ATTACKS[attack].source)
    finally:
        parse_program.cache_clear()  # what passed the broken gate is remembered


@pytest.mark.slow
def test_the_fuzzer_runs() -> None:
    pytest.importorskip("atheris")
    done = subprocess.run([sys.executable, SCRIPT, "--seconds", "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Done" in done.stderr, done.stderr[-2000:]
