"""Hopper GPUs by name, with the properties that decisions depend on.

SM counts and L2 sizes are from NVIDIA's data sheets; recordings read both from the device. Other SM counts (e.g. MIG)
are given as a number.
"""

from __future__ import annotations

import difflib

from evaluators.data.contract import Gpu
from evaluators.data.errors import UserError

_MIB = 1024 * 1024


def _gpu(num_sms: int, l2_mib: int = 50) -> Gpu:
    return Gpu(num_sms, l2_mib * _MIB, num_sms - 1)


GPUS: dict[str, Gpu] = {
    "h100": _gpu(132),
    "h100-pcie": _gpu(114),
    "h200": _gpu(132, 60),
    "h800": _gpu(132),
    "h800-pcie": _gpu(114),
    "h20": _gpu(78, 60),
    "gh200": _gpu(132, 60),
}
"""GPUs of compute capability 9.0, which FA3's kernels need."""

B200_SMS = 148

SM_COUNTS = (132, 114, 78, B200_SMS)
"""SM counts that exported rules are checked for: H100 SXM, H100 PCIe, H20, and B200, which FA4's rules run on."""


def named_gpu(text: str) -> Gpu:
    """Look up a GPU by name or by its number of SMs.

    Raises:
        UserError: neither a known name nor a number, or a GPU that FA3 does not run on.
    """
    if text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 1024:
        return _gpu(int(text[:5]))
    if text.lower() == "b200":
        raise UserError(
            "b200 has compute capability 10.0: FA3's kernels need 9.0",
            hint=f"what a rule would decide for as many SMs: {B200_SMS}",
        )
    if text.lower() not in GPUS:
        near = difflib.get_close_matches(text.lower(), GPUS, n=1)
        raise UserError(
            f"unknown GPU {text!r}",
            hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(GPUS)}, or a number of SMs from 1 to 1024",
        )
    return GPUS[text.lower()]
