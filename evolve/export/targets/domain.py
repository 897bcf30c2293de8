"""Domain of a patch: the measured calls. All others are decided as before.

Every recorded latency is of one query token per sequence, head_dim 128, bfloat16, no sliding window, on an H100. A rule
that also fires on prefill or on a windowed layer has unknown effects there.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT = "measured"
"""Name of the input that tells measured calls from others, in the form of a program and in C++."""

HEAD_DIM = 128
RECORDED = (
    "params.arch == 90", "params.is_bf16", "params.seqlen_q == 1", f"params.d == {HEAD_DIM}", "!params.is_local",
)  # fmt: skip
"""The recorded calls over FA3's Flash_fwd_params (hopper/flash.h)."""

RECORDED_WORDS = f"one bf16 query token per sequence, head_dim {HEAD_DIM}, no sliding window, sm90"
DYNAMIC = "params.num_splits_dynamic_ptr"


def mode_name(*, varlen: bool) -> str:
    """Name of a mode in a bundle."""
    return "varlen and metadata mode" if varlen else "static mode"


@dataclass(frozen=True, slots=True)
class Domain:
    """Calls that a patch decides.

    Attributes:
        everywhere: True to decide also calls that were not measured.
        varlen: True or False for the only mode in which it decides; None for both.
    """

    everywhere: bool = False
    varlen: bool | None = None

    @property
    def limited(self) -> bool:
        """True if the patch leaves some calls unchanged."""
        return not self.everywhere or self.varlen is not None

    def in_mode(self, varlen: bool) -> bool:
        """True if it decides in a mode."""
        return self.varlen is None or self.varlen is varlen

    @property
    def condition(self) -> str:
        """C++ over `params` that is true where the patch decides."""
        parts = [] if self.everywhere else list(RECORDED)
        if self.varlen is not None:
            parts.append(f"{DYNAMIC} {'!=' if self.varlen else '=='} nullptr")
        return " && ".join(parts)

    @property
    def words(self) -> str:
        """Description of these calls."""
        mode = "" if self.varlen is None else mode_name(varlen=self.varlen)
        if self.everywhere:
            return f"every call in {mode}" if mode else "every call"
        return f"{RECORDED_WORDS}{f', {mode}' if mode else ''}"
