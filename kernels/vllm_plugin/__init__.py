"""vLLM plugin: decode steps by a Triton kernel with a searched schedule, all else by vLLM's FlashAttention backend.

Installed, it takes the place of vLLM's backend FLASH_ATTN. `EVOSPLIT_PLUGIN=0` switches it off.
"""

from __future__ import annotations

import logging
import os

VLLM_VERSIONS = ("0.25.1",)
"""Versions whose backend this one is built on; with another vLLM keeps its own."""

SWITCH = "EVOSPLIT_PLUGIN"
"""Environment variable: 0 leaves everything to vLLM."""

BACKEND = f"{__name__}.backend.DecodeBackend"

logger = logging.getLogger(f"vllm.{__name__}")  # below vLLM's logger, which decides where messages go


def switched_on() -> bool:
    """True unless the environment switches the plugin off."""
    return os.environ.get(SWITCH, "1") != "0"


def register() -> None:
    """Entry point of `vllm.general_plugins`, called once in every process; may be called again."""
    if not switched_on():
        return
    import vllm
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if vllm.__version__ not in VLLM_VERSIONS:
        logger.warning(
            "evosplit: vLLM %s is not among the versions that this plugin knows (%s): vLLM's own attention runs",
            vllm.__version__, ", ".join(VLLM_VERSIONS),
        )  # fmt: skip
        return
    backend = AttentionBackendEnum.FLASH_ATTN
    if backend.is_overridden() and backend.get_path() != BACKEND:
        logger.warning("evosplit: %s has taken the place of FLASH_ATTN already and keeps it", backend.get_path())
        return
    register_backend(backend, BACKEND)
