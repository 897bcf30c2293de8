"""Provider `upstream`: FlashAttention-3 built from Dao-AILab/flash-attention's `hopper/`, contiguous KV."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

from evaluators.measure.providers.base import ProviderUnavailable
from evaluators.measure.providers.fa3_fwd import Fa3Fwd

INTERFACE = "flash_attn_interface"

INSTALL_HINT = (
    "build it from source: git clone https://github.com/Dao-AILab/flash-attention, then python setup.py install in "
    "hopper/. PyPI's flash-attn 2.x is FlashAttention-2 and has no FA3 kernel; PyPI's fa3-fwd is the provider fa3_fwd."
)


class Upstream(Fa3Fwd):
    """An installed upstream build; its operators are those of `fa3_fwd`, which packages the same sources."""

    name = "upstream"

    def _load(self) -> Any:
        import torch

        try:
            module = importlib.import_module(INTERFACE)
        except (ImportError, OSError) as error:
            raise ProviderUnavailable(f"{INTERFACE} cannot be imported ({error}); {INSTALL_HINT}") from error
        self._path = str(module.__file__)
        ops = torch.ops.flash_attn_3
        if not hasattr(ops, "get_scheduler_metadata"):
            raise ProviderUnavailable(
                f"{INTERFACE} at {self._path} offers no get_scheduler_metadata: this build is too old; {INSTALL_HINT}"
            )
        return ops

    def build(self) -> str:
        """Hash of the compiled library: a build from source has no meaningful version."""
        import torch

        if self._named:
            return super().build()
        library = next(
            (m.__file__ for n, m in sys.modules.items() if n.startswith("flash_attn_3") and n.endswith("._C")), None
        )
        digest = hashlib.sha256(Path(library or self._path).read_bytes()).hexdigest()[:12]
        return f"flash_attn_interface sha256:{digest}, torch {torch.__version__}"
