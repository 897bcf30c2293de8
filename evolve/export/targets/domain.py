"""Domain of a patch: the measured calls. All others are decided as before.

Every recorded latency is of one query token per sequence, head_dim 128, bfloat16, no sliding window, on one GPU model.
A rule that also fires on prefill, on a windowed layer or on another GPU has unknown effects there: an H200 has as many
SMs as an H100, and a faster memory.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT = "measured"
"""Name of the input that tells measured calls from others, in the form of a program and in C++."""

HEAD_DIM = 128
RECORDED = ("params.is_bf16", "params.seqlen_q == 1", f"params.d == {HEAD_DIM}", "!params.is_local")
"""The recorded calls over FA3's Flash_fwd_params (hopper/flash.h)."""

RECORDED_WORDS = f"one bf16 query token per sequence, head_dim {HEAD_DIM}, no sliding window"
DYNAMIC = "params.num_splits_dynamic_ptr"
SM90 = "params.arch == 90"


def mode_name(*, varlen: bool) -> str:
    """Name of a mode in a bundle."""
    return "varlen and metadata mode" if varlen else "static mode"


@dataclass(frozen=True, slots=True)
class Domain:
    """Calls that a patch decides.

    Attributes:
        everywhere: True to decide also calls that were not measured, on any GPU.
        varlen: True or False for the only mode in which it decides; None for both.
        card: GPU that latencies were recorded on, as CUDA names it; empty where none were, for any of sm90.
    """

    everywhere: bool = False
    varlen: bool | None = None
    card: str = ""

    @property
    def limited(self) -> bool:
        """True if the patch leaves some calls unchanged."""
        return not self.everywhere or self.varlen is not None

    @property
    def by_card(self) -> bool:
        """True if the patch asks for the GPU's name."""
        return bool(self.card) and not self.everywhere

    def in_mode(self, varlen: bool) -> bool:
        """True if it decides in a mode."""
        return self.varlen is None or self.varlen is varlen

    def is_card(self, name: str) -> str:
        """C++ that compares a GPU's name."""
        return f'std::strcmp({name}, "{self.card}") == 0'

    def condition(self, measured_gpu: str) -> str:
        """C++ over `params` that is true where the patch decides.

        Args:
            measured_gpu: C++ that is true on the recorded GPU; unused where the patch does not ask for it.
        """
        parts = [] if self.everywhere else list(RECORDED)
        if self.varlen is not None:
            parts.append(f"{DYNAMIC} {'!=' if self.varlen else '=='} nullptr")
        if not self.everywhere:
            # Last: it costs more than the others.
            parts.append(measured_gpu if self.by_card else SM90)
        return " && ".join(parts)

    @property
    def words(self) -> str:
        """Description of these calls."""
        mode = "" if self.varlen is None else mode_name(varlen=self.varlen)
        if self.everywhere:
            return f"every call in {mode}" if mode else "every call"
        return f"{RECORDED_WORDS}{f', {mode}' if mode else ''}, {self.card or 'sm90'}"
