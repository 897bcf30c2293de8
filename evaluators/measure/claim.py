"""Taking the current GPU for timing: nobody else measures on it, and nothing speaks against its readings."""

from __future__ import annotations

from evaluators.data.device import DeviceRecord
from evaluators.measure.device import current_device, measuring_problem
from evaluators.measure.gpu_lock import hold
from evaluators.measure.worker_client import MeasureError, Trouble


def claim_gpu() -> DeviceRecord:
    """The GPU that torch uses now, locked until this process ends.

    Raises:
        MeasureError: of kind unavailable: CUDA does not start, another process measures on the GPU or runs on it, it
            is in MIG mode, or NVML does not answer.
    """
    try:
        import torch

        torch.empty(1, device="cuda")  # opens this process's context, so that it can be told from others
        device = current_device()
        hold(device.uuid)
        problem = measuring_problem(device.uuid)
    except (ImportError, RuntimeError, OSError) as error:
        raise MeasureError(Trouble.UNAVAILABLE, str(error)) from error
    if problem:
        raise MeasureError(Trouble.UNAVAILABLE, problem)
    return device
