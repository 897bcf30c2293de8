"""GPUs that server plugins serve, without an engine."""

from __future__ import annotations

from types import ModuleType

import pytest
from conftest import ROOT, load_script

H100_SXM = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def domain() -> ModuleType:
    return load_script(ROOT / "kernels" / "server_plugin" / "domain.py")


@pytest.mark.parametrize(
    ("gpu", "capability", "num_sms", "measured", "correct"),
    [
        (H100_SXM, (9, 0), 132, "", ""),
        ("NVIDIA H200", (9, 0), 132, f"the GPU is NVIDIA H200, measured was {H100_SXM}", ""),
        ("NVIDIA H100 NVL", (9, 0), 132, f"the GPU is NVIDIA H100 NVL, measured was {H100_SXM}", ""),
        ("NVIDIA H100 PCIe", (9, 0), 114, "114 multiprocessors", "114 multiprocessors"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), 108, "compute capability (8, 0)", "compute capability (8, 0)"),
    ],
)
def test_other_gpus_than_the_measured_one_are_served_where_told_alone(
    domain: ModuleType, gpu: str, capability: tuple[int, int], num_sms: int, measured: str, correct: str
) -> None:
    layers = domain.Layers(
        num_heads_q=8, num_heads_kv=1, head_dim=128, dtype="bfloat16", cache_dtype="bfloat16", page_size=16,
        sliding_window=False, prefix_window=False, fa_version=3, context_parallel=1, batch_invariant=False,
        mixed_full_graphs=False, capability=capability, num_sms=num_sms, gpu=gpu,
    )  # fmt: skip
    for name, reason in (("MEASURED", measured), ("CORRECT", correct)):
        found = domain.why_not(layers, getattr(domain, name), (H100_SXM,))
        assert reason in found and bool(found) == bool(reason)
