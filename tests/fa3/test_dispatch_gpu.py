"""The mirror against the compiled libraries of this machine."""

from __future__ import annotations

import pytest

from evaluators.data.contract import Gpu
from evaluators.measure.compiled_decisions import mirror, read_metadata, read_num_splits, reading_setting
from evaluators.measure.providers import ProviderUnavailable, open_provider
from evaluators.measure.providers.memory import KvPool

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["fa3_fwd", "vllm"])
def test_compiled_decisions_match_the_mirror(name: str) -> None:
    try:
        provider = open_provider(name)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    readings = list(read_metadata(provider, reading_setting(f"{name}-metadata"), count=1000, seed=11))
    if name == "fa3_fwd":
        pool = KvPool(3 << 30, seed=1)
        for mode in ("static", "varlen"):
            readings += read_num_splits(provider, reading_setting(f"{name}-{mode}"), pool, count=500, seed=12)
    assert len(readings) >= 1000
    assert [r for r in readings if mirror(r, Gpu()) != r.compiled] == []
