"""What the READMEs say of measured tokens is what the files in results/ hold."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "results" / "tpot"))
import engine_table
import summarise

TPOT = ROOT / "results" / "tpot"
README = (TPOT / "README.md").read_text(encoding="utf-8")
PROOFS = sorted({p.with_suffix("") if p.suffix == ".xz" else p for p in TPOT.rglob("proof.csv*")})
TOGETHER = sorted(p for p in (TPOT / "together").iterdir() if p.is_dir())


def test_few_pairs_of_one_decision_were_called_different_and_most_longer_steps_found() -> None:
    rows = [row for path in PROOFS for row in summarise.read_rows(path)]
    same, longer = ([r for r in rows if r["test"] == test] for test in ("A/A", "+0.5%"))
    assert len(same) > 300 and len(longer) > 300
    assert sum(r["verdict"] in ("faster", "slower") for r in same) <= 0.05 * len(same)
    assert sum(r["verdict"] == "slower" for r in longer) >= 0.9 * len(longer)


def test_the_proof_on_two_gpus_is_what_is_said() -> None:
    rows = summarise.read_rows(TPOT / "two-gpus" / "proof.csv")
    found = summarise.proof_summary(rows)
    same, longer = found["A/A"], found["+0.5%"]
    assert f"**{same['faster'] + same['slower']} (2.4%)**" in README and same["pairs"] == longer["pairs"] == 85
    assert f"**{longer['slower']} of {longer['pairs']}** were called slower" in README


@pytest.mark.parametrize("folder", TOGETHER, ids=lambda p: p.name)
def test_tables_of_champions_in_tokens(folder: Path) -> None:
    rows = summarise.read_rows(folder / "steps.csv")
    ratios = [math.exp(float(r["log_ratio"])) for r in rows]
    counts = [sum(r["verdict"] == v for r in rows) for v in ("faster", "slower", "same")]
    cells = [f"{summarise.geomean(ratios):.4f}x", f"{min(ratios):.4f}x", f"{max(ratios):.4f}x", *map(str, counts)]
    lines = [[c.strip().strip("*") for c in line.split("|")] for line in README.splitlines() if line.startswith("|")]
    assert any(line[-7:-1] == cells and line[-8].startswith(f"{len(rows)} of") for line in lines), cells


@pytest.mark.parametrize("run", sorted(p.parent for p in TPOT.glob("engine-*/result.csv")), ids=lambda p: p.name)
def test_table_of_the_real_engine(run: Path) -> None:
    said = re.findall(rf"^\| `{run.name}` \|.*$", README, flags=re.MULTILINE)
    rows = [r for r in engine_table.rows_of(run) if not r["arm"].endswith("-again")]
    ratios, again = (
        [float(r["token_x"]) for r in engine_table.rows_of(run) if r["arm"].endswith("-again") is control]
        for control in (False, True)
    )
    if not said:  # the run before the plugin was mended has a page of its own
        assert run.name == "engine-70b" and f"[{run.name}]({run.name}/README.md)" in README
        return
    cells = [c.strip().strip("*") for c in said[0].split("|")]
    mean, worst, best = engine_table.geomean(ratios), min(ratios), max(ratios)
    assert cells[3:7] == [str(len(rows)), f"{mean:.4f}x", f"{worst:.4f}x", f"{best:.4f}x"]
    assert cells[7] == f"{min(again):.4f}x to {max(again):.4f}x"
