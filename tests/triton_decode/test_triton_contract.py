"""Guarantees for servers: equal bits, bounded memory that streams do not share, and clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
from decode_calls import DEVICE, DecodeCall  # skips where torch or Triton is missing

# isort: split

import torch
from triton_decode import (
    Schedule,
    UnsupportedCallError,
    Workspace,
    WorkspaceError,
    WorkspaceSize,
    decode,
    prepare,
    reference,
    workspace_size,
)

SPLIT = Schedule(num_splits=4, blocks_per_split=2, block_n=16)


def alone(call: DecodeCall, b: int) -> dict[str, Any]:
    """Sequence `b` of a contiguous call as a batch of one."""
    a = call.arguments
    return {name: a[name][b : b + 1] for name in ("q", "k", "v", "seqlens")}


def test_equal_inputs_give_equal_bits() -> None:
    call = DecodeCall(seqlens=(120, 7, 60, 0, 33))
    first = call.run(SPLIT)
    for _ in range(3):
        assert torch.equal(call.run(SPLIT), first)


def test_output_does_not_depend_on_the_rest_of_the_batch() -> None:
    call = DecodeCall(seqlens=(120, 7, 60, 1, 33))
    together = call.run(SPLIT)
    for b in range(5):
        assert torch.equal(decode(**alone(call, b), schedule=SPLIT)[0], together[b])


@pytest.mark.parametrize("schedule", [SPLIT, Schedule(num_splits=7, block_n=16)], ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 8])
def test_workspace_is_never_exceeded(schedule: Schedule, seqlen_q: int) -> None:
    call = DecodeCall(seqlens=(120, 7, 60, 0, 133), group=12, seqlen_q=seqlen_q)
    batch, _, heads_q, head_dim = call.arguments["q"].shape
    size = workspace_size(
        schedule, batch=batch, seqlen_q=seqlen_q, heads_q=heads_q, heads_kv=call.heads_kv, head_dim=head_dim
    )
    workspace = Workspace(WorkspaceSize(size.acc_floats + 999, size.stats_floats + 999, size.counters + 999), DEVICE)
    for buffer in (workspace.acc, workspace.stats):
        buffer.fill_(12345.0)
    decode(**call.arguments, schedule=schedule, workspace=workspace)
    assert bool((workspace.acc[size.acc_floats :] == 12345.0).all())
    assert bool((workspace.stats[size.stats_floats :] == 12345.0).all())
    assert not bool(workspace.counters.any())


def test_one_workspace_serves_launches_of_different_shapes() -> None:
    calls = [DecodeCall(seqlens=(90, 3)), DecodeCall(seqlens=(40, 50, 60, 0), head_dim=96), DecodeCall(seqlen_q=5)]
    launches = [prepare(**call.arguments, schedule=SPLIT) for call in calls]
    size = WorkspaceSize()
    for launch in launches:
        assert launch.workspace is not None
        size = size.union(launch.workspace.size)
    shared = Workspace(size, DEVICE)
    for call in calls:
        expected = reference(**call.arguments)
        out = decode(**call.arguments, schedule=SPLIT, workspace=shared).float()
        assert float((out - expected).norm() / expected.norm()) < 1e-2


def test_refuses_a_workspace_that_is_too_small() -> None:
    with pytest.raises(WorkspaceError, match="this launch needs"):
        prepare(**DecodeCall().arguments, schedule=SPLIT, workspace=Workspace(WorkspaceSize(16, 16, 16), DEVICE))


def test_unsplit_launches_need_no_workspace() -> None:
    assert prepare(**DecodeCall().arguments, schedule=Schedule()).workspace is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 1, 8, 72, dtype=torch.bfloat16)}, "head_dim must be one of 64, 80"),
        ({"q": torch.zeros(2, 1, 8, 64)}, "q's dtype must be one of"),
        ({"q": torch.zeros(2, 8, 64, dtype=torch.bfloat16)}, r"q must be \(batch, seqlen_q"),
        ({"q": torch.zeros(2, 1, 7, 64, dtype=torch.bfloat16)}, "heads_q must be 1 to 16 times heads_kv, not 7 to 2"),
        ({"q": torch.zeros(2, 1, 64, 64, dtype=torch.bfloat16)}, "not 64 to 2"),
        ({"q": torch.zeros(2, 9, 8, 64, dtype=torch.bfloat16)}, "seqlen_q must be 1 to 8, not 9"),
        ({"q": torch.zeros(2, 1, 8, 128, dtype=torch.bfloat16)}, "k's head_dim must be q's 128, not 64"),
        ({"q": torch.zeros(3, 1, 8, 64, dtype=torch.bfloat16)}, "k must hold 3 sequences"),
        ({"q": torch.zeros(0, 1, 8, 64, dtype=torch.bfloat16)}, "the batch must be 1 to 65535 sequences, not 0"),
        ({"k": torch.zeros(2, 40, 2, 64, dtype=torch.float16)}, "dtype of k and v must be one of"),
        ({"v": torch.zeros(2, 40, 2, 64, dtype=torch.float8_e4m3fn)}, "one dtype"),
        ({"v": torch.zeros(2, 41, 2, 64, dtype=torch.bfloat16)}, "k and v must be"),
        ({"k": torch.zeros(2, 40, 64, 2, dtype=torch.bfloat16).transpose(2, 3)}, "contiguous, its strides"),
        ({"seqlens": torch.zeros(2, dtype=torch.int64)}, "seqlens must be contiguous int32"),
        ({"seqlens": torch.zeros(3, dtype=torch.int32)}, "seqlens must be contiguous int32"),
        ({"page_table": torch.zeros(2, 3, dtype=torch.int32)}, "page_size must be one of 1, 16, 32, 64, 128, not 40"),
        ({"sinks": torch.zeros(3)}, "sinks must be"),
        ({"softcap": -1.0}, "softcap must be"),
        ({"window_left": -2}, "window_left must be"),
        ({"k_scale": torch.ones(1)}, "must be given together"),
        ({"k_scale": torch.ones(3, 5), "v_scale": torch.ones(3, 5)}, "k_scale must expand to"),
        ({"out": torch.zeros(2, 1, 8, 64)}, "out must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_it_does_not_serve(changes: dict[str, Any], message: str) -> None:
    on_device = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in changes.items()}
    if "k" in on_device and on_device["k"].stride(3) != 1 and on_device["k"].dtype == torch.bfloat16:
        on_device["v"] = on_device["k"]
    if "k" in on_device and on_device["k"].dtype == torch.float16:
        on_device["v"] = on_device["k"]
    with pytest.raises(UnsupportedCallError, match=message):
        prepare(**(DecodeCall().arguments | on_device), schedule=Schedule())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_splits": 0}, "num_splits must be 1 to 256"),
        ({"num_splits": 257}, "num_splits must be 1 to 256"),
        ({"block_n": 48}, "block_n must be one of"),
        ({"num_warps": 3}, "num_warps must be one of"),
        ({"num_stages": 0}, "num_stages must be one of"),
        ({"blocks_per_split": 0}, "blocks_per_split must be"),
    ],
    ids=str,
)
def test_refuses_knobs_out_of_bounds(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**knobs)


@pytest.mark.skipif(DEVICE == "cuda", reason="about machines without a GPU")
def test_cpu_tensors_need_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton_decode.launch.INTERPRETED", False)
    with pytest.raises(UnsupportedCallError, match="runs on CUDA GPUs"):
        prepare(**DecodeCall().arguments, schedule=Schedule())


LONG = DecodeCall(seqlens=(4000, 100, 2500, 0, 777), heads_kv=1, group=8, head_dim=128)
WIDE = Schedule(num_splits=32, block_n=64)


@pytest.mark.gpu
def test_graphs_replay_with_new_lengths() -> None:
    a = dict(LONG.arguments)
    a["seqlens"] = a["seqlens"].clone()
    launch = prepare(**a, schedule=WIDE)
    launch.run()
    torch.cuda.synchronize()
    assert launch.workspace is not None
    launch.workspace.release()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch.run()
    for lengths in ((4000, 100, 2500, 0, 777), (1, 0, 0, 0, 0), (64, 64, 64, 0, 64), (0, 99, 2499, 0, 770)):
        a["seqlens"].copy_(torch.tensor(lengths, dtype=torch.int32))
        launch.out.fill_(float("nan"))
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        expected = reference(**a)
        assert float((launch.out.float() - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.gpu
def test_streams_run_side_by_side() -> None:
    expected = LONG.run(WIDE)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    launches = [prepare(**LONG.arguments, schedule=WIDE, out=torch.empty_like(expected)) for _ in streams]
    torch.cuda.synchronize()
    for _ in range(200):
        for stream, launch in zip(streams, launches, strict=True):
            with torch.cuda.stream(stream):
                launch.run()
    torch.cuda.synchronize()
    for launch in launches:
        assert torch.equal(launch.out, expected)


@pytest.mark.gpu
def test_refuses_a_workspace_of_another_stream() -> None:
    launch = prepare(**LONG.arguments, schedule=WIDE)
    launch.run()
    with torch.cuda.stream(torch.cuda.Stream()):
        with pytest.raises(WorkspaceError, match="another stream"):
            launch.run()
        torch.cuda.synchronize()
        assert launch.workspace is not None
        launch.workspace.release()
        launch.run()


@pytest.mark.gpu
def test_a_thousand_launches_give_equal_bits() -> None:
    launch = prepare(**LONG.arguments, schedule=WIDE)
    first = launch.run().clone()
    for _ in range(1000):
        launch.run()
        assert torch.equal(launch.out, first)
