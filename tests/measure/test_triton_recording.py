"""The recording script of the Triton kernel, without a GPU: latencies by a formula. Nothing here is a measurement."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, load_script

from evaluators.data.contract import Gpu
from evaluators.data.device import DeviceRecord
from evaluators.data.workloads import Case, Split, llama31_70b
from evaluators.latencies.extension import BRIDGE, extended, write_extension
from evaluators.latencies.slices import merge_slices
from evaluators.latencies.table import TableError, read_table, write_table
from evaluators.triton_decode.actions import recorded_actions
from evaluators.triton_decode.decision import TritonDecision, variants

DEVICE = DeviceRecord("simulated H100", "GPU-simulated", "0", "0", 132, 50 << 20)


@pytest.fixture
def script() -> ModuleType:
    return load_script(ROOT / "scripts" / "record_triton_decode.py")


class SimulatedTimer:
    """Times by a formula; the tenth shape is lost."""

    asked = 0
    slower = 1.0
    """Of all launches: another GPU."""

    def __init__(self, setting: Any, provider: Any, gpu: Gpu) -> None:
        pass

    def time_decisions(
        self, case: Case, decisions: list[TritonDecision], *, rounds: int
    ) -> list[tuple[tuple[float, ...], float]]:
        type(self).asked += 1
        if self.asked == 10:
            raise RuntimeError("simulated refusal\nwith a second line")
        us = [(8.0 if d.num_splits == 0 else 4.0 + d.num_splits) * self.slower for d in decisions]
        return [((each,) * rounds, 0.002) for each in us]

    def tidy(self) -> None:
        pass


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *, refused: str = "", table: Path | None = None
) -> None:
    """The script's main over what is patched in."""
    cuda = SimpleNamespace(synchronize=lambda: None, empty_cache=lambda: None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __version__="simulated"))
    compiled = [script.Compiled(v, s, 1.0, refused if v.block_n == 32 else "") for v in variants(0) for s in (0, 1)]
    monkeypatch.setattr(script, "compile_all", lambda page_size: compiled)
    monkeypatch.setattr(script, "current_device", lambda: DEVICE)
    monkeypatch.setattr(script, "TritonDecode", lambda paged: SimpleNamespace(build=lambda: "simulated build"))
    monkeypatch.setattr(script, "ShapeTimer", SimulatedTimer)
    monkeypatch.setattr(script, "ClockLog", lambda uuid: SimpleNamespace(sample=lambda: (1980, False)))
    extend = [] if table is None else ["--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["record", "--seconds", "9999", "-o", str(folder), *extend])
    script.main()


@pytest.fixture
def few(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """A part of the workload, in place of the whole."""
    cases = list(llama31_70b())[::60]
    monkeypatch.setattr(script, "llama31_70b", lambda: cases)
    SimulatedTimer.asked, SimulatedTimer.slower = 0, 1.0
    return cases


def test_any_beginning_of_the_order_is_balanced(script: ModuleType) -> None:
    cases = llama31_70b()
    order = script.in_random_order(cases)
    assert sorted(c.id for c in order) == sorted(c.id for c in cases) and order == script.in_random_order(cases)
    for part in (order[:300], order[:1000]):
        for ragged in (False, True):
            for split in Split:
                share = [sum(c.ragged is ragged and c.split is split for c in x) / len(x) for x in (part, cases)]
                assert abs(share[0] - share[1]) < 0.02


def test_a_recording_is_continued_and_loses_one_shape(
    script: ModuleType,
    few: list[Case],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(script, monkeypatch, tmp_path)
    path = tmp_path / "slice.jsonl"
    head, *rows = map(json.loads, path.read_text().splitlines())
    assert head["rounds"] == 4 and head["build"] == "simulated build"
    (lost,) = [r for r in rows if "failed" in r]
    assert lost["failed"] == "simulated refusal" and len(rows) == len(few)
    for row in rows:
        if "cells" in row:
            case = next(c for c in few if c.id == row["case"])
            assert [c["launch"] for c in row["cells"]] == list(
                recorded_actions(case.shape, script_setting(head), Gpu())
            )
    assert "1 shapes failed" in capsys.readouterr().out
    path.write_text(path.read_text()[:-30])  # as a kill leaves it: the last shape is lost, too
    run(script, monkeypatch, tmp_path)
    again = [json.loads(line)["case"] for line in path.read_text().splitlines()[1:] if line.endswith("}")]
    assert sorted(set(again)) == sorted(c.id for c in few)
    assert json.loads((tmp_path / "log.json").read_text())["shapes_this_time"] == 2


def script_setting(head: dict[str, Any]) -> Any:
    from evaluators.data.contract import Setting

    return Setting.from_json(head)


def test_what_was_refused_is_not_measured(
    script: ModuleType, few: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(script, monkeypatch, tmp_path, refused="out of resource: shared memory")
    rows = [json.loads(line) for line in (tmp_path / "slice.jsonl").read_text().splitlines()[1:]]
    sizes = {c["block_n"] for r in rows for c in r.get("cells", ())}
    assert sizes == {64, 128}
    assert len(json.loads((tmp_path / "log.json").read_text())["refused"]) == 2


def older_table(path: Path, folder: Path) -> None:
    """A table of what a slice holds, without two shapes and without splits that only whole waves have."""
    card, cases, cells, gpu_of = merge_slices([path])
    older = {
        case: [c for c in rows if c.decision.num_splits in (0, *SPLITS_BEFORE)]
        for case, rows in list(cells.items())[2:]
    }
    write_table(folder, card, [c for c in cases if c.id in older], older, gpu_of)


SPLITS_BEFORE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def test_a_table_is_extended_on_another_gpu(
    script: ModuleType, few: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(script, monkeypatch, tmp_path / "whole")
    slice_, older = tmp_path / "whole" / "slice.jsonl", tmp_path / "older"
    (tmp_path / "more").mkdir()
    older_table(slice_, older)
    SimulatedTimer.slower = 1.25
    run(script, monkeypatch, tmp_path / "more", table=older)
    more = tmp_path / "more" / "slice.jsonl"
    before, (_, cases, whole, _) = read_table(older), merge_slices([slice_])
    found = extended(older, [more])
    write_extension(tmp_path / "new", found)
    after = read_table(tmp_path / "new")
    assert found.bridged and {c.id for c in after.cases} == {c.id for c in few}
    for case in cases:
        launches = {c.launch: c.latencies_us for c in after.cells[case.id]}
        if case.id not in before.cells:
            assert launches == {c.launch: tuple(1.25 * us for us in c.latencies_us) for c in whole[case.id]}
            continue
        # Scaled by the bridge: as if the first GPU had measured them.
        assert launches.keys() == {c.launch for c in whole[case.id]}
        for cell in whole[case.id]:
            assert launches[cell.launch] == pytest.approx(cell.latencies_us, rel=1e-3)
        added = len(launches) - len(before.cells[case.id])
        assert (case.id in found.bridged) is (added > 0)
        if added:
            assert found.bridged[case.id].launches == added
            assert found.bridged[case.id].factor == pytest.approx(0.8, rel=1e-3)
    told = after.card["extension"]
    assert told["scaled_launches"] == sum(b.launches for b in found.bridged.values()) > 0
    assert told["shapes_as_measured"] == len(few) - len(before.cases) and told["factor"]["p50"] == pytest.approx(0.8)
    # What was measured to extend another table is refused, and so is a bridge that is not whole.
    with pytest.raises(TableError, match="was not recorded to extend"):
        extended(tmp_path / "new", [more])
    head, *rows = map(json.loads, more.read_text().splitlines())
    # Extended again, by a shape of its own launches: what the first extension said stays.
    again = tmp_path / "again.jsonl"
    told_again = json.dumps(head | {"extends": after.digest})
    again.write_text("\n".join([told_again, *(json.dumps(r) for r in rows if r["case"] in found.bridged)]) + "\n")
    write_extension(tmp_path / "third", extended(tmp_path / "new", [again]))
    assert read_table(tmp_path / "third").card["extension"]["before"] == told
    first, third = (gzip.decompress((tmp_path / f / BRIDGE).read_bytes()).splitlines() for f in ("new", "third"))
    assert third[: len(first)] == first and len(third) == 2 * len(first) - 1
    for row in rows:
        row["cells"] = [c for c in row.get("cells", []) if c["launch"] != "fa3" or row["case"] not in found.bridged]
    rows = [r for r in rows if r["cells"]]
    more.write_text("\n".join(map(json.dumps, [head, *rows])) + "\n")
    with pytest.raises(TableError, match="2 launches of the bridge were measured again, expected 3"):
        extended(older, [more])


def test_another_build_is_not_mixed_in(
    script: ModuleType, few: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(script, monkeypatch, tmp_path)
    path = tmp_path / "slice.jsonl"
    path.write_text(path.read_text().replace("simulated build", "another build"))
    with pytest.raises(SystemExit, match="recorded with another build"):
        run(script, monkeypatch, tmp_path)
