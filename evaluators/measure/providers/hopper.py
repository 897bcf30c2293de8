"""Check that the current GPU can run FA3."""

from __future__ import annotations

import warnings

NEEDS = "FA3 needs an H100 or H200"


def hopper_problem() -> str:
    """Reason why FA3 cannot run on torch's current GPU; empty if it can.

    Raises:
        ImportError: torch is missing.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a long version of the messages below
            available = torch.cuda.is_available()
        if not available:
            # The reason is unknown: no driver, an old one, a build without CUDA, or no visible GPU.
            torch.cuda.init()
            return f"torch sees no CUDA GPU; {NEEDS}"
        major, minor = torch.cuda.get_device_capability()
        name = torch.cuda.get_device_name()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"CUDA does not start ({first}); {NEEDS}"
    if major != 9:
        return f"{NEEDS} (compute capability 9.x), this GPU is a {name} with {major}.{minor}"
    return ""
