"""GPUs of this machine: model, UUID, driver, clocks, throttling, and fitness for timing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
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
    """NVML no longer answers for a GPU, which fell off the bus or lost its driver."""


@contextlib.contextmanager
def _answering(nvml: Any) -> Iterator[None]:
    """Convert errors of NVML to a `RuntimeError`."""
    try:
        yield
    except nvml.NVMLError as error:
        raise RuntimeError(f"NVML does not answer ({error}); nvidia-smi shows what is wrong with the GPU") from error


def current_device() -> DeviceRecord:
    """GPU that torch uses at present."""
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
    """UUIDs of this machine's GPUs in NVML's order, without opening a GPU.

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
    """Reason not to time on a GPU: MIG, or another process on it; empty if there is none.

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
        # In a container NVML returns process ids of the host: a single one is this process.
        others = {}
    if not others:
        return ""
    named = ", ".join(f"process {pid} ({(used or 0) / 2**30:.1f} GiB)" for pid, used in sorted(others.items()))
    return f"{uuid} is used by {named}: timings would be wrong; end it, or choose another GPU (CUDA_VISIBLE_DEVICES)"


@dataclass(frozen=True, slots=True)
class TimingFitness:
    """State of a GPU that affects latencies.

    Attributes:
        facts: power cap, clocks, temperature and driver, as text.
        doubts: reasons why its latencies may differ from those of the same model elsewhere; empty if it is fit.
    """

    facts: tuple[str, ...]
    doubts: tuple[str, ...]


HOT_C = 80
"""Temperature in degrees above which a GPU is about to throttle."""

LEAST_DRIVER = 580
"""First driver of CUDA 13, for which fa3-fwd is built."""


def timing_fitness(uuid: str) -> TimingFitness:
    """Power cap, clocks, temperature and driver of a GPU, with warnings about unusual values.

    Raises:
        ImportError: nvidia-ml-py is missing.
        RuntimeError: NVML does not answer.
    """
    nvml = _nvml()
    with _answering(nvml):
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        driver = str(nvml.nvmlSystemGetDriverVersion())

    def asked(name: str, *arguments: Any) -> int | None:
        try:
            return int(getattr(nvml, name)(handle, *arguments))
        except (nvml.NVMLError, AttributeError):
            return None  # not every driver and virtual machine reports everything

    cap, usual = asked("nvmlDeviceGetPowerManagementLimit"), asked("nvmlDeviceGetPowerManagementDefaultLimit")
    clock, most = (
        asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        asked("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
    )
    held = asked("nvmlDeviceGetApplicationsClock", nvml.NVML_CLOCK_SM)
    heat = asked("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    reasons = asked("nvmlDeviceGetCurrentClocksThrottleReasons")
    facts = [f"driver {driver}"]
    facts += [f"power cap {cap / 1000:.0f} W"] if cap else []
    facts += [f"SM clock {clock} of {most} MHz"] if clock and most else []
    facts += [f"{heat} degrees"] if heat is not None else []
    doubts = []
    if driver.partition(".")[0].isdigit() and int(driver.partition(".")[0]) < LEAST_DRIVER:
        doubts.append(f"driver {driver} is older than {LEAST_DRIVER}, which fa3-fwd's CUDA 13 needs")
    if cap and usual and cap < usual:
        doubts.append(f"the power cap is {cap / 1000:.0f} W, this model's is {usual / 1000:.0f} W (nvidia-smi -pl)")
    if held and most and held < most:
        doubts.append(f"application clocks hold the SMs at {held} of {most} MHz (nvidia-smi -rac)")
    if reasons is not None and reasons & _slowdowns(nvml):
        doubts.append("heat or power slows it down now (nvidia-smi -q -d PERFORMANCE)")
    if heat is not None and heat >= HOT_C:
        doubts.append(f"it is at {heat} degrees: wait until it is below {HOT_C}")
    return TimingFitness(tuple(facts), tuple(doubts))


def _slowdowns(nvml: Any) -> int:
    """Bit mask of throttling reasons that affect latencies."""
    return int(
        nvml.nvmlClocksThrottleReasonHwSlowdown
        | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
        | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonSwPowerCap
    )


class ClockLog:
    """Sampler of SM clock and throttling of the current GPU through NVML."""

    def __init__(self, uuid: str) -> None:
        """Open the device by UUID, independent of CUDA_VISIBLE_DEVICES.

        Raises:
            ImportError: nvidia-ml-py is missing.
            RuntimeError: NVML does not answer.
        """
        self._nvml, self._uuid = _nvml(), uuid
        with _answering(self._nvml):
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._bad = _slowdowns(self._nvml)

    def sample(self) -> tuple[int, bool]:
        """Sample (SM clock in MHz, True if the GPU throttles by heat or power).

        Raises:
            DeviceLost: NVML does not answer.
        """
        try:
            clock = int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
            reasons = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        except self._nvml.NVMLError as error:
            raise DeviceLost(f"NVML does not answer for {self._uuid} any more ({error})") from error
        return clock, bool(reasons & self._bad)
