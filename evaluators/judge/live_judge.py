"""The judge whose latencies are measured: by one GPU, by a pool, or by a pool that another process holds."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.data.workloads import Split, Weighting, cases_for
from evaluators.judge.judge import SEARCH_SPLITS, WORKSPACE_CAP_MB, Judge
from evaluators.measure.live import LiveSource
from evaluators.sandbox.sandbox import Limits


def open_live_judge(
    source: LiveSource,
    workload: str,
    *,
    weighting: Weighting,
    limits: Limits,
    workspace_cap_mb: int = WORKSPACE_CAP_MB,
    splits: Sequence[Split] = SEARCH_SPLITS,
) -> Judge:
    """A judge of measurements; the test split stays sealed unless `splits` names it.

    Its description names the GPU by UUID only where one GPU measures all: on a pool a run may go on with others of the
    same kind, since every speed-up is a ratio on one GPU.

    Raises:
        SandboxUnavailable: this system cannot confine candidates.
    """
    description = {
        "workload": workload,
        "measure": "live",
        "gpu": source.device.name,
        "driver": source.device.driver,
        "num_sms": str(source.gpu.num_sms),
        "l2_bytes": str(source.gpu.l2_bytes),
        "build": source.bench.build,
    }
    if source.one_gpu:
        description["gpu_uuid"] = source.device.uuid
    return Judge(
        [c for c in cases_for(workload, source.setting) if c.split in splits],
        source.setting,
        source.gpu,
        source,
        description=description,
        weighting=weighting,
        limits=limits,
        workspace_cap_mb=workspace_cap_mb,
    )
