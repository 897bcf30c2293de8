"""Whether the current GPU can run FA3 at all, and in CUDA's own words why not."""

from __future__ import annotations

import warnings

NEEDS = "FA3 needs an H100 or H200"


def hopper_problem() -> str:
    """Why FA3 cannot run on the GPU that torch uses now; empty where it can.

    Raises:
        ImportError: torch is missing.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says what is said below, at length
            available = torch.cuda.is_available()
        if not available:
            # Why, it does not say: no driver, one that is too old, a build without CUDA, no visible GPU.
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
