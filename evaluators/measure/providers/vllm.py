"""Provider `vllm`: the FA3 fork behind vLLM, paged KV, mode metadata.

Loaded from an installed vLLM, or from the file `_vllm_fa3_C.abi3.so` alone (environment variable
`EVOSPLIT_VLLM_FA3`), which needs nothing else of vLLM.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.fa3.dispatch import capacity, ceil_div
from evaluators.fa3.launch import canonical_launch
from evaluators.measure.providers.base import SOFTCAP, BoundLaunch, CallInputs, ProviderUnavailable
from evaluators.measure.providers.hopper import hopper_problem
from evaluators.measure.providers.library import load_operators
from evaluators.measure.providers.memory import cut, kv_elements, random_queries, torch_dtype
from evaluators.measure.providers.metadata import rewrite_metadata

if TYPE_CHECKING:
    import torch

    from evaluators.measure.providers.memory import KvPool

LIBRARY_VARIABLE = "EVOSPLIT_VLLM_FA3"
LIBRARY_NAME = "_vllm_fa3_C.abi3.so"


def find_library() -> Path:
    """Path of vLLM's FA3 library.

    Raises:
        ProviderUnavailable: found neither by the environment variable nor in an installed vLLM.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise ProviderUnavailable(f"{LIBRARY_VARIABLE} names {path}, which is not a file")
        return path
    spec = importlib.util.find_spec("vllm")
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "vllm_flash_attn" / LIBRARY_NAME
        if path.is_file():
            return path
    raise ProviderUnavailable(
        f"vLLM's FA3 library was not found: install vllm, or set {LIBRARY_VARIABLE} to the path of {LIBRARY_NAME}"
    )


def _window_left(shape: DecodeShape) -> int:
    """Visible keys before the query's own; -1 for all."""
    return shape.window - 1 if shape.window else -1


def _window_right(shape: DecodeShape) -> int:
    """Visible keys after the query's own: none with a window; -1 leaves it to the causal mask."""
    return 0 if shape.window else -1


class Vllm:
    """vLLM's fork of FA3's Hopper forward kernel."""

    name = "vllm"

    def __init__(self, library: str = "") -> None:
        """Load the library.

        Args:
            library: another build, by path or name of a package; empty for vLLM's own.

        Raises:
            ProviderUnavailable: the library, torch or a Hopper GPU is missing.
        """
        try:
            import torch

            problem = hopper_problem()
        except (ImportError, OSError) as error:
            raise ProviderUnavailable(
                f"torch cannot be imported ({error}): pip install vllm, or 'evosplit[gpu]' beside {LIBRARY_VARIABLE}"
            ) from error
        self._path = Path() if library else find_library()
        self._ops: Any = None
        if problem:
            raise ProviderUnavailable(problem)
        self._named = ""
        if library:
            self._ops, self._named = load_operators(library)
            return
        try:
            torch.ops.load_library(str(self._path))
        except OSError as error:
            raise ProviderUnavailable(f"{self._path} cannot be loaded ({error})") from error
        self._ops = torch.ops._vllm_fa3_C

    def build(self) -> str:
        """VLLM's version if installed, and the library's hash: its kernels change without a version."""
        import torch

        if self._named:
            return f"{self._named}, torch {torch.__version__}"
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()[:12]
        try:
            version = importlib.metadata.version("vllm")
        except importlib.metadata.PackageNotFoundError:
            version = "library"
        return f"vllm {version} sha256:{digest}, torch {torch.__version__}"

    def make_inputs(self, shape: DecodeShape, setting: Setting, *, copies: int, pool: KvPool) -> CallInputs:
        """Make inputs with the pages of a sequence at random places of the copy; see `Provider.make_inputs`."""
        import torch

        if not setting.paged or setting.mode is not Mode.METADATA:
            raise ProviderUnavailable("the provider vllm serves paged KV in metadata mode only")
        pages_each = ceil_div(capacity(shape, setting), setting.page_size)
        pages = shape.batch * pages_each
        pieces = pool.take(2 * copies, kv_elements(shape, setting))
        rows, tokens = (pages, setting.page_size, shape.num_heads_kv), shape.batch * shape.seqlen_q
        q = random_queries((tokens, shape.num_heads_q, shape.head_dim), setting, pool)
        sinks = torch.empty(shape.num_heads_q, dtype=torch.bfloat16, device="cuda").normal_(generator=pool.generator)
        table = torch.randperm(pages, device="cuda", generator=pool.generator).to(torch.int32)
        return CallInputs(
            shape=shape,
            setting=setting,
            q=q,
            keys=cut(pieces[:copies], (*rows, shape.head_dim)),
            values=cut(pieces[copies:], (*rows, shape.v_head_dim)),
            seqlens=torch.tensor(shape.seqlens, dtype=torch.int32, device="cuda"),
            page_table=table.view(shape.batch, pages_each),
            cu_seqlens_q=torch.arange(0, shape.batch + 1, dtype=torch.int32, device="cuda") * shape.seqlen_q,
            out=torch.empty((tokens, shape.num_heads_q, shape.v_head_dim), dtype=torch.bfloat16, device="cuda"),
            sinks=sinks if shape.sinks else None,
        )

    def _metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> torch.Tensor:
        import torch

        cu_seqlens_q = torch.arange(0, shape.batch + 1, dtype=torch.int32, device="cuda") * shape.seqlen_q
        metadata: torch.Tensor = self._ops.get_scheduler_metadata(
            shape.batch,
            shape.seqlen_q,
            capacity(shape, setting),
            shape.num_heads_q,
            shape.num_heads_kv,
            shape.head_dim,
            shape.v_head_dim,
            torch_dtype(setting.dtype),
            seqlens,
            cu_seqlens_q,
            None,
            None,
            None,
            None,
            setting.page_size,
            0,
            True,
            _window_left(shape),
            _window_right(shape),
            shape.softcap,
            decision.num_splits,
            None,
            decision.sm_margin,
        )
        return metadata

    def compiled_metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> list[int]:
        """See `Provider.compiled_metadata`."""
        values: list[int] = self._metadata(shape, setting, decision, seqlens).tolist()
        return values

    def compiled_num_splits(self, inputs: CallInputs, decision: Decision) -> int:
        """See `Provider.compiled_num_splits`; partial outputs are (num_splits, heads_q, tokens, head_dim).

        Without splits they are empty in vLLM 0.25.1 and None in later forks.
        """
        partial = self._forward(inputs, 0, decision.num_splits, decision.sm_margin, None)[2]
        return int(partial.shape[0]) if partial is not None and partial.numel() else 1

    def _forward(
        self, inputs: CallInputs, copy: int, num_splits: int, sm_margin: int, metadata: torch.Tensor | None
    ) -> Any:
        shape = inputs.shape
        nothing = (None,) * 3
        return self._ops.fwd(
            inputs.q,
            inputs.keys[copy],
            inputs.values[copy],
            *nothing,  # k_new, v_new, q_v
            inputs.out,
            inputs.cu_seqlens_q,
            *nothing,  # cu_seqlens_k, cu_seqlens_k_new, seqused_q
            inputs.seqlens,
            shape.seqlen_q,
            capacity(shape, inputs.setting),
            inputs.page_table,
            None,  # kv_batch_idx
            None,  # leftpad_k
            *nothing,  # rotary_cos, rotary_sin, seqlens_rotary
            *nothing,  # q_descale, k_descale, v_descale
            shape.head_dim**-0.5,
            True,  # causal
            _window_left(shape),
            _window_right(shape),
            SOFTCAP if shape.softcap else 0.0,
            True,  # rotary interleaved
            metadata,
            num_splits,
            None,  # pack_gqa: vLLM's wrapper leaves it to the kernel
            sm_margin,
            inputs.sinks,
            1,  # cp_world_size
            0,  # cp_rank
            None,  # cp_tot_seqused_k
        )

    def bind(self, inputs: CallInputs, decision: Decision, gpu: Gpu) -> BoundLaunch:
        """See `Provider.bind`. `decision.num_splits` must be resolved."""
        import torch

        if decision.num_splits < 1:
            raise ValueError("bind needs an explicit num_splits; resolve 0 first")
        assert inputs.seqlens is not None
        shape, setting = inputs.shape, inputs.setting
        metadata = self._metadata(shape, setting, decision, inputs.seqlens)
        if decision.blocks_per_split and decision.num_splits > 1:
            live = canonical_launch(shape, setting, decision, gpu).live_splits
            raw = rewrite_metadata(metadata.tolist(), shape, setting, live)
            metadata = torch.tensor(raw, dtype=torch.int32, device="cuda")

        def run(copy: int) -> None:
            self._forward(inputs, copy, decision.num_splits, decision.sm_margin, metadata)

        return BoundLaunch(decision, run)

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        """See `Provider.bind_own`."""
        assert inputs.seqlens is not None
        metadata = self._metadata(inputs.shape, inputs.setting, Decision(num_splits), inputs.seqlens)

        def run(copy: int) -> None:
            self._forward(inputs, copy, num_splits, 0, metadata)

        return BoundLaunch(Decision(num_splits), run)
