"""`evosplit confirm BUNDLE --provider BUILD` on simulated builds; what a real one said is in results/patched-build."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Command
from jsonschema import Draft202012Validator
from simulated_gpu import SIMULATED_BUILD, SIMULATED_DEVICE, SimulatedWorker, simulated_latency_us

import evolve.export.evidence.evidence
from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.workloads import WORKLOADS
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.language.gate import parse_program
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers import ProviderUnavailable
from evaluators.measure.providers.library import NEEDED, load_operators
from evolve.export.bundle.bundle import DIFF_COLUMNS, _csv, _diff_row
from evolve.export.targets.targets import target_named

PROGRAM = """\
def schedule(shape, gpu):
    if 3 <= shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:
        return 3, None, 0
    return 0, None, 0
"""
WORK = "def schedule(shape, gpu):\n    return 0, None, 0\n\n\ndef blocks_per_split(work, gpu):\n    return 2\n"


def patched(shape: DecodeShape, setting: Setting, asked: int) -> Decision:
    """Decision of PROGRAM for a call."""
    from evaluators.fa3.dispatch import shape_view

    view = shape_view(shape, setting)
    return Decision(3 if 3 <= view.num_n_blocks <= 4 and view.total_mblocks <= 2 else asked)


def unpatched(shape: DecodeShape, setting: Setting, asked: int) -> Decision:
    return Decision(asked)


class Build(SimulatedWorker):
    """A simulated build with a decision of its own."""

    def __init__(self, own: Callable[[DecodeShape, Setting, int], Decision], **options: Any) -> None:
        super().__init__(**options)
        self.own = own
        self.asked: list[DecodeShape] = []

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        self.asked.append(shape)
        decision = spelled_out(shape, self.setting, self.own(shape, self.setting, num_splits), Gpu())
        reply: dict[str, Any] = {"num_splits": decision.num_splits}
        if self.setting.mode is Mode.METADATA:
            reply["live_splits"] = list(canonical_launch(shape, self.setting, decision, Gpu()).live_splits)
        return reply

    def _reading(self, shape: DecodeShape, decision: Decision, clock: float) -> float:
        if decision.num_splits == 0:
            decision = self.own(shape, self.setting, 0)
        noise = 1 + self.rng.gauss(0, self.noise)
        return simulated_latency_us(shape, self.setting, decision) * clock * noise


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A folder with what `evosplit export` writes of a program's decisions."""
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", {"bsc-160": WORKLOADS["bsc-160"]})

    def make(source: str, target: str) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        rows = evolve.export.evidence.evidence.gather(target_named(target), parse_program(source), {}, Gpu())
        (folder / "decision_diff.csv").write_text(_csv(DIFF_COLUMNS, map(_diff_row, rows)))
        told = {
            "target": {"name": target}, "program": {"sha256": hashlib.sha256(source.encode()).hexdigest()},
            "domain": {"everywhere": False, "card": SIMULATED_DEVICE.name},
        }  # fmt: skip
        (folder / "provenance.json").write_text(json.dumps(told))
        return folder

    return make


def use(monkeypatch: pytest.MonkeyPatch, worker: SimulatedWorker) -> list[str]:
    named: list[str] = []

    def opened(library: str) -> SimulatedWorker:
        named.append(library)
        return worker

    monkeypatch.setattr("evaluators.measure.worker_client.open_worker", opened)
    return named


def test_a_patched_build_is_confirmed(
    bundle: Callable[[str, str], Path], evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Build(patched)
    named = use(monkeypatch, worker)
    result = evosplit("confirm", bundle(PROGRAM, "fa3"), "--provider", "build/_C.so", "-o", "out", "--json")
    assert result.code == 0, result.err
    assert named == ["build/_C.so"]
    schema = json.loads((ROOT / "docs" / "schema" / "confirm-build.json").read_text())
    Draft202012Validator(schema).validate(result.json)
    assert result.json["build"] == SIMULATED_BUILD and result.json["confirmed"]
    # Hot and cold caches see the same decisions: one of the two is asked.
    assert set(result.json["settings"]) == {"fa3_fwd-metadata-cold", "fa3_fwd-static-cold"}
    for found in result.json["settings"].values():
        assert found["read"] == found["agree"] == 160
        assert found["changed"] == found["timed"] > 0 and found["changed_as_stock"] == 0
    static = result.json["settings"]["fa3_fwd-static-cold"]
    assert static["verdict"] == "faster" and static["low"] > 1
    lines = (tmp_path / "out" / "choices.jsonl").read_text().splitlines()
    assert len(lines) == 320 == len(worker.asked)
    assert json.loads((tmp_path / "out" / "confirm-build.json").read_text()) == result.json
    (logged,) = (tmp_path / "state" / "evosplit" / "sealed-reads.jsonl").read_text().splitlines()
    assert json.loads(logged)["verb"] == "confirm"
    # Arm A is stock, spelled out; arm B is left to the build.
    for _, (one, other) in worker.requests:
        assert one.num_splits > 0 and other == Decision(0)


def test_an_unpatched_build_is_found_out(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Build(unpatched)
    use(monkeypatch, worker)
    result = evosplit("confirm", bundle(PROGRAM, "fa3"), "--provider", "x.so", "-o", "out")
    assert result.code == 1 and "decides as stock: is the patch built in?" in result.out
    assert not worker.requests


def test_one_other_decision_is_not_confirmed(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(shape: DecodeShape, setting: Setting, asked: int) -> Decision:
        return Decision(5) if shape.batch == 1 and shape.seqlen_k == 8192 else patched(shape, setting, asked)

    worker = Build(other)
    use(monkeypatch, worker)
    result = evosplit("confirm", bundle(PROGRAM, "fa3"), "--provider", "x.so", "-o", "out", "--json")
    assert result.code == 1 and not result.json["confirmed"]
    differ = result.json["settings"]["fa3_fwd-static-cold"]["differ"]
    assert differ and all(row["num_splits"] == 5 for row in differ)
    assert "are not the bundle's" in result.json["verdict"]


def test_metadata_beyond_what_the_call_allocates_is_never_timed(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneCaller(Build):
        def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
            reply = super().compiled(shape, num_splits)
            return {**reply, "num_splits": 2} if max(reply.get("live_splits", [0])) == 3 else reply

    worker = OneCaller(patched)
    use(monkeypatch, worker)
    result = evosplit("confirm", bundle(PROGRAM, "fa3"), "--provider", "x.so", "-o", "out", "--json")
    assert result.code == 1
    found = result.json["settings"]["fa3_fwd-metadata-cold"]
    assert found["out_of_bounds"] == found["read"] - found["agree"] > 0
    assert found["timed"] == found["changed_agree"]


def test_the_prepare_kernel_is_asked_for_its_live_splits(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def formula(shape: DecodeShape, setting: Setting, asked: int) -> Decision:
        return replace(spelled_out(shape, setting, Decision(asked), Gpu()), blocks_per_split=2)

    worker = Build(formula, noise=0.0)
    use(monkeypatch, worker)
    result = evosplit("confirm", bundle(WORK, "fa3-prepare"), "--provider", "x.so", "-o", "out", "--json")
    found = result.json["settings"]["fa3_fwd-metadata-cold"]
    assert found["read"] == found["agree"] and found["changed"] > 0, result.err
    # Stock's own live splits are imposed on arm A: the build's formula is another.
    assert all(one.blocks_per_split > 0 for _, (one, _) in worker.requests)


def test_a_patch_of_both_files_is_asked_for_both(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(shape: DecodeShape, setting: Setting, asked: int) -> Decision:
        own = spelled_out(shape, setting, patched(shape, setting, asked), Gpu())
        return replace(own, blocks_per_split=2) if setting.mode is Mode.METADATA else own

    source = PROGRAM + WORK.partition("\n\n\n")[2]
    worker = Build(both, noise=0.0)
    use(monkeypatch, worker)
    result = evosplit("confirm", bundle(source, "fa3-whole"), "--provider", "x.so", "-o", "out", "--json")
    assert result.json["target"] == "fa3-whole", result.err
    for found in result.json["settings"].values():
        assert found["read"] == found["agree"] and found["changed"] > 0


def test_a_lost_gpu_and_too_little_time(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = bundle(PROGRAM, "fa3")
    use(monkeypatch, Build(patched))
    result = evosplit("confirm", folder, "--provider", "x.so", "-o", "out", "--minutes", "0")
    assert result.code == 4 and "when the minutes ended" in result.out

    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        raise MeasureError(MeasureErrorKind.LOST, "the GPU worker ended; what was measured is kept")

    use(monkeypatch, Build(patched, fault=fault))
    result = evosplit("confirm", folder, "--provider", "x.so", "-o", "lost")
    assert result.code == 3 and "Traceback" not in result.err
    assert (tmp_path / "lost" / "choices.jsonl").read_text()


@pytest.mark.parametrize(
    ("other", "said"),
    [({"num_sms": 114}, "132 SMs"), ({"name": "NVIDIA H200"}, "decides on simulated H100, this GPU is NVIDIA H200")],
)
def test_another_gpu_is_refused(
    bundle: Callable[[str, str], Path], evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    other: dict[str, Any], said: str,
) -> None:  # fmt: skip
    class Smaller(Build):
        def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
            super().open(setting, seed=seed)
            return replace(SIMULATED_DEVICE, **other), SIMULATED_BUILD

    use(monkeypatch, Smaller(patched))
    result = evosplit("confirm", bundle(PROGRAM, "fa3"), "--provider", "x.so", "-o", "out")
    assert result.code == 2 and said in result.err and not (tmp_path / "out").exists()


def test_mistakes_are_named(
    bundle: Callable[[str, str], Path], evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Build(patched))
    result = evosplit("confirm", ROOT / "seeds" / "always_4.py", "--provider", "x.so")
    assert result.code == 2 and "decision_diff.csv" in result.err
    folder = bundle(PROGRAM, "fa3")
    result = evosplit("confirm", folder, "--provider", "x.so", "--against", "y.py")
    assert result.code == 2 and "--against" in result.err
    (folder / "provenance.json").write_text(json.dumps({"target": {"name": "fa4"}, "program": {"sha256": "0" * 64}}))
    result = evosplit("confirm", folder, "--provider", "x.so")
    assert result.code == 2 and "fa4" in result.err
    text = (folder / "decision_diff.csv").read_text()
    (folder / "provenance.json").write_text(json.dumps({"target": {"name": "fa3"}, "program": {"sha256": "0" * 64}}))
    (folder / "decision_diff.csv").write_text(text.replace(",s3.p1.g0:3,", ",s4.p1.g0:4,"))
    result = evosplit("confirm", folder, "--provider", "x.so")
    assert result.code == 2 and "export it again" in result.err
    assert not (tmp_path / "runs").exists()


class FakeTorch(ModuleType):
    """Stands for torch: libraries that it loads register what their file says."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.registered = ["aten::add", "other::fwd"]
        self._C = SimpleNamespace(_dispatch_get_all_op_names=lambda: list(self.registered))
        self.ops = SimpleNamespace(load_library=self.load, flash_attn_3="the build's", fa3_fwd="another's")

    def load(self, path: str) -> None:
        if not path.endswith(".so"):
            raise OSError("invalid ELF header")
        self.registered += Path(path).read_text().split()


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    torch = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    load_operators.cache_clear()
    return torch


@pytest.mark.usefixtures("fake_torch")
def test_the_operators_of_a_library_are_found_and_loaded_once(tmp_path: Path) -> None:
    library = tmp_path / "_C.so"
    library.write_text("flash_attn_3::fwd flash_attn_3::get_scheduler_metadata flash_attn_3::bwd.out")
    operators, build = load_operators(str(library))
    assert operators == "the build's"
    assert re.fullmatch(r"_C.so \(flash_attn_3\) sha256:[0-9a-f]{12}", build)
    # The next setting opens the same build in the same process, where nothing new is registered.
    assert load_operators(str(library)) == (operators, build)


@pytest.mark.usefixtures("fake_torch")
def test_a_library_that_brings_two_builds_must_be_named_with_one(tmp_path: Path) -> None:
    library = tmp_path / "_C.so"
    library.write_text(" ".join(f"{n}::{op}" for n in ("fa3_fwd", "flash_attn_3") for op in NEEDED))
    with pytest.raises(ProviderUnavailable, match="fa3_fwd, flash_attn_3: name one"):
        load_operators(str(library))
    load_operators.cache_clear()
    sys.modules["torch"].registered.clear()
    assert load_operators(f"{library}:flash_attn_3")[0] == "the build's"


@pytest.mark.usefixtures("fake_torch")
def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="neither a shared library nor a package"):
        load_operators("no_such_build")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ProviderUnavailable, match="invalid ELF header"):
        load_operators(str(tmp_path / "text"))
    (tmp_path / "_C.so").write_text("other::combine")
    with pytest.raises(ProviderUnavailable, match="in no namespace"):
        load_operators(str(tmp_path / "_C.so"))
