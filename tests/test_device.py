"""What speaks against timing a GPU, by a simulated NVML, and what providers say without one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from evaluators.contract import SETTINGS
from evaluators.device import ClockLog, measuring_problem
from evaluators.gpu_worker import MeasureError, Trouble
from evaluators.providers import ProviderUnavailable, open_provider, provider_names


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None = 1 << 30


class SimulatedNvml(ModuleType):
    """The part of pynvml that is used."""

    NVML_CLOCK_SM = 1
    nvmlClocksThrottleReasonHwSlowdown = 1
    nvmlClocksThrottleReasonHwThermalSlowdown = 2
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 4
    nvmlClocksThrottleReasonSwThermalSlowdown = 8
    nvmlClocksThrottleReasonSwPowerCap = 16

    class NVMLError(Exception):
        pass

    def __init__(self, *, mig: int | None = 0, processes: Sequence[Process] = (), reasons: int = 0) -> None:
        super().__init__("pynvml")
        self._mig, self._processes, self._reasons = mig, processes, reasons

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        if self._mig is None:
            raise self.NVMLError("not supported")
        return self._mig, self._mig

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Sequence[Process]:
        return self._processes

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
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


def simulated_torch(*, available: bool, capability: tuple[int, int]) -> ModuleType:
    module = ModuleType("torch")
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: available, get_device_capability=lambda: capability
    )
    module.ops = SimpleNamespace(load_library=lambda path: None)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("name", provider_names())
@pytest.mark.parametrize(
    ("available", "capability", "says"), [(False, (9, 0), "H100"), (True, (8, 0), "H100"), (True, (12, 0), "H100")]
)
def test_providers_refuse_other_gpus(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
    name: str,
    available: bool,
    capability: tuple[int, int],
    says: str,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch(available=available, capability=capability))
    monkeypatch.setenv("EVOSPLIT_VLLM_FA3", __file__)
    with pytest.raises(ProviderUnavailable, match=says):
        open_provider(name)


def test_upstream_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch(available=True, capability=(9, 0)))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    with pytest.raises(ProviderUnavailable, match="hopper/"):
        open_provider("upstream")


def test_a_bench_says_why_it_cannot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.bench import Bench

    monkeypatch.setitem(sys.modules, "torch", simulated_torch(available=False, capability=(9, 0)))
    with pytest.raises(MeasureError) as error:
        Bench(SETTINGS["fa3_fwd-metadata-cold"], 0)
    assert error.value.kind is Trouble.UNAVAILABLE and "CUDA" in str(error.value)
