"""Reasons against timing a GPU, by a simulated NVML, and what providers say without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import Command

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.measure.device import ClockLog, TimingFitness, measuring_problem, timing_fitness
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Channel
from evaluators.measure.providers import ProviderUnavailable, open_provider, provider_names
from evaluators.measure.worker_process import BenchServer


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None = 1 << 30


class SimulatedNvml(ModuleType):
    """The part of pynvml that is used."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksThrottleReasonHwSlowdown = 1
    nvmlClocksThrottleReasonHwThermalSlowdown = 2
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 4
    nvmlClocksThrottleReasonSwThermalSlowdown = 8
    nvmlClocksThrottleReasonSwPowerCap = 16

    class NVMLError(Exception):
        pass

    def __init__(
        self, *, mig: int | None = 0, processes: Sequence[Process] = (), reasons: int = 0, broken: str = ""
    ) -> None:
        super().__init__("pynvml")
        self.broken = broken
        self._mig, self._processes, self._reasons = mig, processes, reasons

    def told(self, name: str, value: int | None) -> SimulatedNvml:
        """Have a function of one handle answer; None refuses."""

        def answer(handle: str, *arguments: int) -> int:
            if value is None:
                raise self.NVMLError("not supported")
            return value

        setattr(self, name, answer)
        return self

    def nvmlInit(self) -> None:
        pass

    def _answer(self) -> None:
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlSystemGetDriverVersion(self) -> str:
        self._answer()
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:
        self._answer()
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"GPU-{index + 1}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        if self._mig is None:
            raise self.NVMLError("not supported")
        return self._mig, self._mig

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Sequence[Process]:
        return self._processes

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        self._answer()
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self._reasons


def problem(monkeypatch: pytest.MonkeyPatch, **state: object) -> str:
    monkeypatch.setitem(sys.modules, "pynvml", SimulatedNvml(**state))  # type: ignore[arg-type]
    return measuring_problem("GPU-1")


def test_a_free_gpu_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Process(os.getpid())
    assert problem(monkeypatch, processes=[mine]) == ""
    assert problem(monkeypatch, processes=[], mig=None) == ""
    # A container's NVML counts in process ids of the host.
    assert problem(monkeypatch, processes=[Process(4_000_000)]) == ""


def test_mig_and_other_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MIG" in problem(monkeypatch, mig=1)
    found = problem(monkeypatch, processes=[Process(os.getpid()), Process(77, 3 << 30)])
    assert "process 77 (3.0 GiB)" in found and str(os.getpid()) not in found
    assert "process 77 (0.0 GiB)" in problem(monkeypatch, processes=[Process(os.getpid()), Process(77, None)])
    assert "process 77" in problem(monkeypatch, processes=[Process(77), Process(78)])


@pytest.mark.parametrize("reason", [1, 2, 4, 8, 16])
def test_each_slow_down_drops_a_block(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimulatedNvml(reasons=reason))
    assert ClockLog("GPU-1").sample() == (1980, True)
    # Idle (1 << 5 here stands for any other reason) is none.
    monkeypatch.setitem(sys.modules, "pynvml", SimulatedNvml(reasons=1 << 5))
    assert ClockLog("GPU-1").sample() == (1980, False)


def test_a_missing_nvml_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ImportError, match=r"evosplit\[gpu\]"):
        ClockLog("GPU-1")


TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver."


def simulated_torch(
    *, available: bool = True, capability: tuple[int, int] = (9, 0), reason: str = "", uuid: str = "1"
) -> ModuleType:
    """The part of torch that is used before anything is launched; `reason` is why CUDA does not start."""

    def init() -> None:
        if reason:
            raise RuntimeError(reason)

    module = ModuleType("torch")
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: available,
        init=init,
        current_device=lambda: 0,
        get_device_capability=lambda: capability,
        get_device_name=lambda: "simulated GPU",
        get_device_properties=lambda k: SimpleNamespace(
            name="simulated GPU", uuid=uuid, multi_processor_count=132, L2_cache_size=50 << 20
        ),
    )
    module.version = SimpleNamespace(cuda="13.0")  # type: ignore[attr-defined]
    module.empty = lambda *sizes, **options: None  # type: ignore[attr-defined]
    module.ops = SimpleNamespace(load_library=lambda path: None, fa3_fwd=None)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("name", provider_names())
@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"available": False}, "no CUDA GPU"),
        ({"available": False, "reason": TOO_OLD}, r"driver on your system is too old.*H100"),
        ({"available": False, "reason": "Found no NVIDIA driver on your system."}, "no NVIDIA driver"),
        ({"capability": (8, 0)}, r"H100.*simulated GPU with 8\.0"),
        ({"capability": (12, 0)}, r"H100.*with 12\.0"),
    ],
)
def test_providers_refuse_other_gpus_and_say_why(
    monkeypatch: pytest.MonkeyPatch, name: str, state: dict[str, Any], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch(**state))
    monkeypatch.setenv("EVOSPLIT_VLLM_FA3", __file__)
    with pytest.raises(ProviderUnavailable, match=says):
        open_provider(name)


@pytest.mark.parametrize("name", provider_names())
def test_providers_without_torch_say_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProviderUnavailable, match=r"torch cannot be imported.*(install|build)"):
        open_provider(name)


class ServerChannel(Channel):
    """The worker's own code in this process, where NVML and torch can be simulated."""

    streams = True

    def __init__(self, uuid: str, *, bench: str) -> None:
        self._server = BenchServer(bench, uuid=uuid)

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        return self._server.replies(json.loads(json.dumps(request)))

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimulatedNvml:
    """A machine with an H100 that no one uses, as far as libraries tell; nothing can be launched."""
    nvml = SimulatedNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "torch", simulated_torch())
    monkeypatch.setitem(sys.modules, "fa3_fwd._C", ModuleType("fa3_fwd._C"))
    monkeypatch.setattr("evaluators.measure.gpu_lock.LOCK_FOLDER", tmp_path / "evosplit-gpu-locks")
    monkeypatch.setattr("evaluators.measure.gpu_lock._held", {})
    monkeypatch.setattr("evaluators.measure.local.ProcessChannel", ServerChannel)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


@pytest.fixture
def holder(hopper: SimulatedNvml, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that measures on that GPU."""
    code = "from evaluators.measure.gpu_lock import hold; hold('GPU-1'); print('held', flush=True); input()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


RECORD = ("record", "--part", "1/400", "-o", "slice.jsonl")


def test_record_leaves_a_gpu_alone_on_which_another_process_measures(
    evosplit: Command, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    result = evosplit(*RECORD)
    assert result.code == 3 and "Traceback" not in result.err
    assert f"GPU-1 is in use (process {holder.pid}," in result.err and "since" in result.err
    assert "hold(" in result.err, "the command that holds it is named"
    assert not (tmp_path / "slice.jsonl").exists()


def test_a_live_run_leaves_the_same_gpu_alone(holder: subprocess.Popen[str]) -> None:
    from evaluators.measure.bench import GpuBench

    with pytest.raises(MeasureError, match=f"in use .process {holder.pid},") as error:
        GpuBench(SETTINGS["fa3_fwd-metadata-cold"], 0)
    assert error.value.kind is MeasureErrorKind.UNAVAILABLE


def test_record_keeps_others_off_its_gpu(hopper: SimulatedNvml, tmp_path: Path) -> None:
    from evaluators.measure.gpu_lock import claim_gpu

    assert claim_gpu().uuid == "GPU-1" == claim_gpu().uuid
    code = "from evaluators.measure.gpu_lock import hold; hold('GPU-1')"
    other = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert other.returncode == 1 and f"in use (process {os.getpid()}," in other.stderr


def test_a_killed_holder_leaves_the_gpu_free(holder: subprocess.Popen[str]) -> None:
    from evaluators.measure.gpu_lock import claim_gpu

    holder.kill()
    holder.wait()
    assert claim_gpu().uuid == "GPU-1"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"mig": 1}, "MIG"),
        ({"processes": [Process(77), Process(78)]}, "process 77"),
        ({"broken": "GPU is lost"}, "NVML does not answer (GPU is lost)"),
    ],
)
def test_record_refuses_a_gpu_that_cannot_be_timed(
    evosplit: Command, hopper: SimulatedNvml, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimulatedNvml(**state))
    result = evosplit(*RECORD)
    assert result.code == 3 and says in result.err and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"available": False, "reason": TOO_OLD}, "too old"),
        ({"available": False, "reason": "No CUDA GPUs are available"}, "No CUDA GPUs"),
        ({"capability": (8, 0)}, "8.0"),
    ],
)
def test_record_says_why_a_machine_cannot(
    evosplit: Command, hopper: SimulatedNvml, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch(**state))
    result = evosplit(*RECORD)
    assert result.code == 3 and says in result.err and "Traceback" not in result.err


def test_a_gpu_that_falls_off_the_bus_is_lost_and_blames_no_launch(hopper: SimulatedNvml) -> None:
    from evaluators.measure.bench import GpuBench

    bench = GpuBench(SETTINGS["fa3_fwd-metadata-cold"], 0)
    hopper.broken = "GPU is lost"
    with pytest.raises(MeasureError, match=r"does not answer for GPU-1 any more \(GPU is lost\)") as error:
        bench.guarded(DecodeShape(2, 4096, 8, 1), bench._clocks.sample)
    assert error.value.kind is MeasureErrorKind.LOST


def test_upstream_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch(available=True, capability=(9, 0)))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    with pytest.raises(ProviderUnavailable, match="hopper/"):
        open_provider("upstream")


def test_a_bench_says_why_it_cannot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.measure.bench import GpuBench

    monkeypatch.setitem(sys.modules, "torch", simulated_torch(available=False, capability=(9, 0)))
    with pytest.raises(MeasureError) as error:
        GpuBench(SETTINGS["fa3_fwd-metadata-cold"], 0)
    assert error.value.kind is MeasureErrorKind.UNAVAILABLE and "CUDA" in str(error.value)


FIT = {
    "nvmlDeviceGetPowerManagementLimit": 700_000, "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetMaxClockInfo": 1980, "nvmlDeviceGetApplicationsClock": 1980, "nvmlDeviceGetTemperature": 41,
}  # fmt: skip


def fitness(monkeypatch: pytest.MonkeyPatch, *, reasons: int = 0, **changes: int | None) -> TimingFitness:
    nvml = SimulatedNvml(reasons=reasons)
    for name, value in {**FIT, **changes}.items():
        nvml.told(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return timing_fitness("GPU-1")


def test_a_gpu_that_is_fit_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitness(monkeypatch)
    assert found.facts == ("driver 580.65", "power cap 700 W", "SM clock 1980 of 1980 MHz", "41 degrees")
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("reasons", "changes", "doubt"),
    [
        (0, {"nvmlDeviceGetPowerManagementLimit": 400_000}, "power cap is 400 W, this model's is 700 W"),
        (0, {"nvmlDeviceGetApplicationsClock": 1200}, "hold the SMs at 1200 of 1980 MHz"),
        (0, {"nvmlDeviceGetTemperature": 85}, "at 85 degrees"),
        (8, {}, "heat or power slows it down"),
    ],
)
def test_what_makes_a_gpu_unfit_is_named(
    monkeypatch: pytest.MonkeyPatch, reasons: int, changes: dict[str, int], doubt: str
) -> None:
    (told,) = fitness(monkeypatch, reasons=reasons, **changes).doubts
    assert doubt in told


def test_what_nvml_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitness(monkeypatch, **dict.fromkeys(FIT))
    assert found.facts == ("driver 580.65",) and found.doubts == ()


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedNvml, "nvmlSystemGetDriverVersion", lambda self: "550.90.07")
    assert "older than 580" in fitness(monkeypatch).doubts[0]
