"""SGLang plugin: decode steps by a Triton kernel with a searched schedule, all else by SGLang's FA3 backend.

Installed, it takes the place of SGLang's attention backend `fa3`. `EVOSPLIT_PLUGIN=0` switches it off.
"""

from __future__ import annotations

import logging
import os
from typing import Any

SGLANG_VERSIONS = ("0.5.23",)
"""Versions whose backend this one is built on; with another SGLang keeps its own."""

SWITCH = "EVOSPLIT_PLUGIN"
"""Environment variable: 0 leaves everything to SGLang."""

BACKEND = "fa3"

logger = logging.getLogger(__name__)


def switched_on() -> bool:
    """True unless the environment switches the plugin off."""
    return os.environ.get(SWITCH, "1") != "0"


def create_backend(runner: Any) -> Any:
    """SGLang's `fa3` for a model runner, with decode steps by the Triton kernel."""
    from .backend import DecodeBackend

    return DecodeBackend(runner)


def register() -> None:
    """Entry point of `sglang.srt.plugins`, called once in every process; may be called again."""
    if not switched_on():
        return
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS, register_attention_backend
    from sglang.version import __version__

    if __version__ not in SGLANG_VERSIONS:
        logger.warning(
            "evosplit: SGLang %s is not among the versions that this plugin knows (%s): SGLang's own attention runs",
            __version__, ", ".join(SGLANG_VERSIONS),
        )  # fmt: skip
        return
    stock = ATTENTION_BACKENDS[BACKEND]
    if stock is create_backend:
        return
    if not stock.__module__.startswith("sglang."):
        logger.warning("evosplit: %s has taken the place of %s already and keeps it", stock.__module__, BACKEND)
        return
    register_attention_backend(BACKEND)(create_backend)
