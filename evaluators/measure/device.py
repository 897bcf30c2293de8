"""GPUs of this machine: model, UUID, driver, clocks, throttling, and whether one can be timed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from evaluators.data.device import DeviceRecord


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise ImportError(
            "nvidia-ml-py is missing, which finds GPUs and their clocks: pip install 'evosplit[gpu]'"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise RuntimeError(f"NVML does not answer ({error}), so clocks cannot be watched") from error
    return pynvml


class DeviceLost(RuntimeError):
    """NVML does not answer for a GPU any more: it fell off the bus, or the driver is gone."""


@contextlib.contextmanager
def _answering(nvml: Any) -> Iterator[None]:
    """What NVML refuses becomes a `RuntimeError` that says so."""
    try:
        yield
    except nvml.NVMLError as error:
        raise RuntimeError(f"NVML does not answer ({error}); nvidia-smi shows what is wrong with the GPU") from error


def current_device() -> DeviceRecord:
    """The GPU that torch uses now."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    nvml = _nvml()
    with _answering(nvml):
        driver = str(nvml.nvmlSystemGetDriverVersion())
    return DeviceRecord(
        name=properties.name,
        uuid=f"GPU-{properties.uuid}",
        driver=driver,
        cuda=str(torch.version.cuda),
        num_sms=properties.multi_processor_count,
        l2_bytes=properties.L2_cache_size,
    )


def nvml_uuids() -> list[str]:
    """UUIDs of this machine's GPUs in NVML's order, without opening any of them.

    Raises:
        ImportError: nvidia-ml-py is missing.
        RuntimeError: NVML does not answer.
    """
    nvml = _nvml()
    with _answering(nvml):
        return [
            str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))) for i in range(nvml.nvmlDeviceGetCount())
        ]


def measuring_problem(uuid: str) -> str:
    """Why nothing should be timed on a GPU: MIG, or another process on it; empty where it can be timed.

    Raises:
        ImportError: nvidia-ml-py is missing.
        RuntimeError: NVML does not answer.
    """
    nvml = _nvml()
    with _answering(nvml):
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    try:
        mig, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        mig = 0  # not supported: no MIG
    if mig:
        return f"{uuid} is in MIG mode, where a slice of the SMs is timed, not the GPU: use a whole GPU"
    others = {p.pid: p.usedGpuMemory for p in running}
    if others.pop(os.getpid(), None) is None and len(others) == 1:
        # In a container NVML counts in the host's process ids: a single one is this process.
        others = {}
    if not others:
        return ""
    named = ", ".join(f"process {pid} ({(used or 0) / 2**30:.1f} GiB)" for pid, used in sorted(others.items()))
    return f"{uuid} is used by {named}: timings would be wrong; end it, or choose another GPU (CUDA_VISIBLE_DEVICES)"


class ClockLog:
    """Samples SM clock and throttle reasons of the current GPU through NVML."""

    def __init__(self, uuid: str) -> None:
        """Open the device by UUID, so that CUDA_VISIBLE_DEVICES cannot mix two GPUs up.

        Raises:
            ImportError: nvidia-ml-py is missing.
            RuntimeError: NVML does not answer.
        """
        self._nvml, self._uuid = _nvml(), uuid
        with _answering(self._nvml):
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml = self._nvml
        self._bad = (
            nvml.nvmlClocksThrottleReasonHwSlowdown
            | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
            | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
            | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
            | nvml.nvmlClocksThrottleReasonSwPowerCap
        )

    def sample(self) -> tuple[int, bool]:
        """(SM clock in MHz, whether the GPU is slowed down by heat or power).

        Raises:
            DeviceLost: NVML does not answer.
        """
        try:
            clock = int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
            reasons = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        except self._nvml.NVMLError as error:
            raise DeviceLost(f"NVML does not answer for {self._uuid} any more ({error})") from error
        return clock, bool(reasons & self._bad)
