"""Provider `fa3_fwd`: PyPI's fa3-fwd, contiguous KV, modes static, varlen and metadata."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.fa3.launch import canonical_launch, effective_pack_gqa
from evaluators.measure.providers.base import SOFTCAP, BoundLaunch, CallInputs, ProviderUnavailable
from evaluators.measure.providers.hopper import hopper_problem
from evaluators.measure.providers.library import load_operators
from evaluators.measure.providers.memory import cut, kv_elements, random_queries, torch_dtype
from evaluators.measure.providers.metadata import rewrite_metadata

if TYPE_CHECKING:
    import torch

    from evaluators.measure.providers.memory import KvPool

INSTALL_HINT = (
    "install the extra: pip install 'evosplit[gpu]' (fa3-fwd needs torch >= 2.10 built for CUDA 13). "
    "PyPI's flash-attn 2.x is FlashAttention-2 and has no FA3 kernel."
)


def _window(shape: DecodeShape) -> dict[str, int]:
    """Arguments of a sliding window, which counts the query's own key."""
    return {"window_size_left": shape.window - 1, "window_size_right": 0} if shape.window else {}


class Fa3Fwd:
    """FA3's Hopper forward kernel as packaged by fa3-fwd."""

    name = "fa3_fwd"

    def __init__(self, library: str = "") -> None:
        """Load the library.

        Args:
            library: another build, by path or name of a package; empty for the installed one.

        Raises:
            ProviderUnavailable: the package, torch or a Hopper GPU is missing.
        """
        try:
            problem = hopper_problem()
        except (ImportError, OSError) as error:
            raise ProviderUnavailable(f"torch cannot be imported ({error}); {INSTALL_HINT}") from error
        if problem:
            raise ProviderUnavailable(problem)
        self._named = ""
        self._ops: Any = None
        if library:
            self._ops, self._named = load_operators(library)
        else:
            self._ops = self._load()

    def _load(self) -> Any:
        import torch

        try:
            importlib.import_module("fa3_fwd._C")
        except (ImportError, OSError) as error:
            raise ProviderUnavailable(f"fa3_fwd cannot be imported ({error}); {INSTALL_HINT}") from error
        return torch.ops.fa3_fwd

    def build(self) -> str:
        """`fa3-fwd` and torch versions."""
        import torch

        if self._named:
            return f"{self._named}, torch {torch.__version__}"
        try:
            version = importlib.metadata.version("fa3-fwd")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return f"fa3-fwd {version}, torch {torch.__version__}"

    def make_inputs(self, shape: DecodeShape, setting: Setting, *, copies: int, pool: KvPool) -> CallInputs:
        """See `Provider.make_inputs`."""
        import torch

        if setting.paged:
            raise ProviderUnavailable(f"the provider {self.name} serves contiguous KV only; use the provider vllm")
        if shape.sinks:
            raise ProviderUnavailable(f"the provider {self.name} has no sinks; use the provider vllm")
        pieces = pool.take(2 * copies, kv_elements(shape, setting))
        rows, tokens = (shape.batch, shape.seqlen_k, shape.num_heads_kv), (shape.batch, shape.seqlen_q)
        q = random_queries((*tokens, shape.num_heads_q, shape.head_dim), setting, pool)
        seqlens = None
        if setting.mode is not Mode.STATIC:
            seqlens = torch.tensor(shape.seqlens, dtype=torch.int32, device="cuda")
        return CallInputs(
            shape=shape,
            setting=setting,
            q=q,
            keys=cut(pieces[:copies], (*rows, shape.head_dim)),
            values=cut(pieces[copies:], (*rows, shape.v_head_dim)),
            seqlens=seqlens,
            page_table=None,
            cu_seqlens_q=None,
            out=torch.empty((*tokens, shape.num_heads_q, shape.v_head_dim), dtype=torch.bfloat16, device="cuda"),
        )

    def _metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, pack_gqa: bool | None, seqlens: torch.Tensor
    ) -> torch.Tensor:
        metadata: torch.Tensor = self._ops.get_scheduler_metadata(
            shape.batch,
            shape.seqlen_q,
            shape.seqlen_k,
            shape.num_heads_q,
            shape.num_heads_kv,
            shape.head_dim,
            shape.v_head_dim,
            torch_dtype(setting.dtype),
            seqlens,
            is_causal=shape.seqlen_q > 1,
            **_window(shape),
            **({"has_softcap": True} if shape.softcap else {}),
            num_splits=decision.num_splits,
            pack_gqa=pack_gqa,
            sm_margin=decision.sm_margin,
        )
        return metadata

    def compiled_metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> list[int]:
        """See `Provider.compiled_metadata`."""
        values: list[int] = self._metadata(shape, setting, decision, decision.pack_gqa, seqlens).tolist()
        return values

    def compiled_num_splits(self, inputs: CallInputs, decision: Decision) -> int:
        """See `Provider.compiled_num_splits`."""
        partial = self._forward(inputs, 0, decision.num_splits, decision.pack_gqa, decision.sm_margin, None)[2]
        return int(partial.shape[0]) if partial is not None and partial.numel() else 1

    def _forward(
        self,
        inputs: CallInputs,
        copy: int,
        num_splits: int,
        pack_gqa: bool | None,
        sm_margin: int,
        metadata: torch.Tensor | None,
    ) -> Any:
        return self._ops.fwd(
            inputs.q,
            inputs.keys[copy],
            inputs.values[copy],
            out=inputs.out,
            seqused_k=inputs.seqlens,
            is_causal=inputs.shape.seqlen_q > 1,
            **_window(inputs.shape),
            **({"softcap": SOFTCAP} if inputs.shape.softcap else {}),
            scheduler_metadata=metadata,
            num_splits=num_splits,
            pack_gqa=pack_gqa,
            sm_margin=sm_margin,
        )

    def bind(self, inputs: CallInputs, decision: Decision, gpu: Gpu) -> BoundLaunch:
        """See `Provider.bind`. `decision.num_splits` must be resolved."""
        import torch

        shape, setting = inputs.shape, inputs.setting
        if decision.num_splits < 1:
            raise ValueError("bind needs an explicit num_splits; resolve 0 first")
        launch = canonical_launch(shape, setting, decision, gpu)
        pack = effective_pack_gqa(shape, setting, decision.num_splits, decision.pack_gqa)
        metadata = None
        if setting.mode is Mode.METADATA:
            assert inputs.seqlens is not None
            metadata = self._metadata(shape, setting, decision, pack, inputs.seqlens)
            if decision.blocks_per_split and decision.num_splits > 1:
                raw = rewrite_metadata(metadata.tolist(), shape, setting, launch.live_splits)
                metadata = torch.tensor(raw, dtype=torch.int32, device="cuda")
        elif decision.blocks_per_split and setting.mode is Mode.VARLEN:
            raise ValueError("blocks_per_split can be imposed in metadata mode only: varlen computes its own")

        def run(copy: int) -> None:
            self._forward(inputs, copy, decision.num_splits, pack, decision.sm_margin, metadata)

        return BoundLaunch(decision, run)

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        """See `Provider.bind_own`."""
        metadata = None
        if inputs.setting.mode is Mode.METADATA:
            assert inputs.seqlens is not None
            metadata = self._metadata(inputs.shape, inputs.setting, Decision(num_splits), None, inputs.seqlens)

        def run(copy: int) -> None:
            self._forward(inputs, copy, num_splits, None, 0, metadata)

        return BoundLaunch(Decision(num_splits), run)
