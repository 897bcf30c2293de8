"""Provider `triton_decode`: the decode kernel of `kernels/triton_decode/`, and FA3 for the same calls.

FA3 is fa3-fwd for contiguous KV and vLLM's library for paged KV, so that both kernels are timed in one process, over
the same memory, alternately. Inputs are those of FA3's provider.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import DecodeShape, Gpu, Setting, baseline_decision
from evaluators.measure.providers.base import BoundLaunch, CallInputs, Provider, ProviderUnavailable
from evaluators.triton_decode.decision import MAX_NUM_SPLITS, TritonDecision
from evaluators.triton_decode.launch import canonical_launch, spelled_out

if TYPE_CHECKING:
    import torch
    from triton_decode import Workspace

    from evaluators.data.contract import Decision
    from evaluators.measure.providers.memory import KvPool

ROOT = Path(__file__).resolve().parents[3]
KERNEL_FOLDERS = (ROOT / "kernels", ROOT / "evolve" / "_assets" / "kernels")
"""Folders of the kernel in a checkout and in a wheel."""

FA3_OF = {False: "fa3_fwd", True: "vllm"}
"""Provider that runs FA3, for contiguous (False) and paged (True) KV."""


def load_kernel() -> Any:
    """Import the package `triton_decode`.

    Raises:
        ProviderUnavailable: the kernel's folder, torch or Triton is missing.
    """
    folder = next((f for f in KERNEL_FOLDERS if (f / "triton_decode").is_dir()), None)
    if folder is None:
        raise ProviderUnavailable(
            f"the folder triton_decode is in none of {', '.join(map(str, KERNEL_FOLDERS))}; clone the repository"
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        import triton_decode
    except ImportError as error:
        raise ProviderUnavailable(
            f"the Triton kernel cannot be imported ({error}): pip install 'evosplit[triton]'"
        ) from error
    return triton_decode


def kernel_digest() -> str:
    """Hash of the kernel's sources, which have no version."""
    device = Path(load_kernel().__file__).with_name("device.py")
    return hashlib.sha256(device.read_bytes()).hexdigest()[:12]


def open_fa3(paged: bool, library: str = "") -> Provider:
    """Open the provider of FA3 for the same calls."""
    from evaluators.measure.providers.registry import open_provider

    return open_provider(FA3_OF[paged], library)


class TritonDecode:
    """The Triton kernel; decisions with num_splits 0, and launches by FA3's own decision, run FA3."""

    name = "triton_decode"

    def __init__(
        self, library: str = "", *, paged: bool = False, fa3: Callable[[bool, str], Provider] = open_fa3
    ) -> None:
        """Load both kernels.

        Args:
            library: another build of FA3, by path or name of a package; empty for the installed one.
            paged: True if calls will have paged KV.
            fa3: opens the provider of FA3.

        Raises:
            ProviderUnavailable: one of them cannot run here.
        """
        self._fa3 = fa3(paged, library)  # checks the GPU first
        self._kernel = load_kernel()
        self._paged = paged
        self._workspace: Workspace | None = None

    def build(self) -> str:
        """Triton's version, the kernel's hash, and the build of FA3, which names torch."""
        import triton

        return f"triton {triton.__version__}, kernel sha256:{self._digest}; {self._fa3.build()}"

    @cached_property
    def _digest(self) -> str:
        return kernel_digest()

    def _as_fa3(self, setting: Setting) -> Setting:
        if setting.paged is not self._paged:
            raise ProviderUnavailable(f"this provider was opened for {'paged' if self._paged else 'contiguous'} KV")
        return replace(setting, provider=FA3_OF[self._paged])

    def make_inputs(self, shape: DecodeShape, setting: Setting, *, copies: int, pool: KvPool) -> CallInputs:
        """Make the inputs of FA3's provider; see `Provider.make_inputs`."""
        return self._fa3.make_inputs(shape, self._as_fa3(setting), copies=copies, pool=pool)

    def _workspace_of(self, shape: DecodeShape, device: torch.device) -> Workspace:
        """Workspace for every schedule of a shape, so that all use the same memory."""
        kernel = self._kernel
        needed = kernel.workspace_size(
            kernel.Schedule(num_splits=MAX_NUM_SPLITS), batch=shape.batch, seqlen_q=shape.seqlen_q,
            heads_q=shape.num_heads_q, heads_kv=shape.num_heads_kv, head_dim=shape.head_dim,
        )  # fmt: skip
        found = self._workspace
        if found is None or not found.size.holds(needed):
            # Launches that are bound already keep their workspace.
            found = kernel.Workspace(needed if found is None else needed.union(found.size), device)
            self._workspace = found
        return found

    def bind(self, inputs: CallInputs, decision: TritonDecision, gpu: Gpu) -> BoundLaunch:
        """See `Provider.bind`.

        Raises:
            ValueError: a decision that `evaluators.triton_decode.launch.refusal` refuses.
        """
        shape, setting = inputs.shape, inputs.setting
        canonical_launch(shape, setting, decision)
        decision = spelled_out(shape, setting, decision)
        if decision.num_splits == 0:
            return self.bind_own(inputs, 0)
        schedule = self._kernel.Schedule(*decision.as_row())
        workspace = self._workspace_of(shape, inputs.q.device)
        tokens = (shape.batch, shape.seqlen_q, shape.num_heads_q, shape.head_dim)
        q, out = inputs.q.view(tokens), inputs.out.view(tokens)
        launches = [
            self._kernel.prepare(
                q, k, v, seqlens=inputs.seqlens, page_table=inputs.page_table, out=out, schedule=schedule,
                workspace=workspace,
            )
            for k, v in zip(inputs.keys, inputs.values, strict=True)
        ]  # fmt: skip

        def run(copy: int) -> None:
            # Checks, captures and replays use different streams, each of which waits for earlier work.
            workspace.release()
            launches[copy].run()

        return BoundLaunch(decision, run)

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        """Bind FA3 as its users call it: vLLM's full CUDA graphs pass a constant instead of 0."""
        asked = num_splits or baseline_decision(inputs.setting).num_splits
        own = self._fa3.bind_own(inputs, asked)
        return BoundLaunch(TritonDecision(), own.run)

    def compiled_metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> list[int]:
        """Read FA3's metadata; see `Provider.compiled_metadata`."""
        return self._fa3.compiled_metadata(shape, self._as_fa3(setting), decision, seqlens)

    def compiled_num_splits(self, inputs: CallInputs, decision: Decision) -> int:
        """Read FA3's num_splits; see `Provider.compiled_num_splits`."""
        return self._fa3.compiled_num_splits(inputs, decision)
