"""Inputs that hours of fuzzing kept, through the same checks."""

from __future__ import annotations

import pytest
from fuzz_gate import check_input, kept_inputs

KEPT = kept_inputs()
PARTS = 8


def test_some_are_kept() -> None:
    assert len(KEPT) > 100


@pytest.mark.parametrize("part", range(PARTS))
def test_kept_inputs_find_no_hole(part: int) -> None:
    for data in KEPT[part::PARTS]:
        check_input(data)
