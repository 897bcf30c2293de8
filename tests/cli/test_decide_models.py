"""`decide`, `record` and `run` for models, and every column of a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command
from json_schemas import check

STOCK = ROOT / "seeds" / "fa3_stock.py"
CALL = "batch,seqlen_k,num_heads_q,num_heads_kv"


UPSTREAM, VLLM = ("--setting", "upstream-metadata-cold"), ("--setting", "vllm-metadata-cold")


@pytest.fixture
def decided(evosplit: Command) -> Any:
    def decide(text: str, *more: str) -> list[dict[str, Any]]:
        Path("calls.csv").write_text(text)
        result = evosplit("decide", STOCK, "--shapes", "calls.csv", "--json", *more)
        assert result.code == 0, result.err
        check("decide", result.json)
        rows: list[dict[str, Any]] = json.loads(result.out)["decisions"]
        return rows

    return decide


def test_every_column_reaches_the_mirror(decided: Any) -> None:
    columns = f"{CALL},head_dim,head_dim_v,seqlen_q,window,softcap,sinks,dtype,mode,paged,live_seqlens"
    (row,) = decided(f"{columns}\n2,4096,64,8,192,128,4,1024,1,1,fp8,metadata,1,100 4000\n")
    assert row["shape"] == {
        "batch": 2, "seqlen_k": 4096, "num_heads_q": 64, "num_heads_kv": 8, "head_dim": 192, "head_dim_v": 128,
        "seqlen_q": 4, "window": 1024, "softcap": True, "sinks": True, "dtype": "fp8", "mode": "metadata",
        "paged": True, "live_seqlens": [100, 4000],
    }  # fmt: skip


def test_element_size_and_window_change_the_decision(decided: Any) -> None:
    plain, fp8, local = (
        row["launch"]["num_splits"]
        for row in decided(f"{CALL},dtype,window\n1,8192,8,1,,\n1,8192,8,1,fp8,\n1,8192,8,1,,512\n", *UPSTREAM)
    )
    # The smallest count within 85% of 47, 37 and 5 blocks, of 176, 224 and 128 keys.
    assert (plain, fp8, local) == (40, 32, 5)


def test_what_runs_on_a_build_is_decided_there(decided: Any) -> None:
    """Windows over the whole capacity are dropped; head sizes between compiled ones are padded, on both providers."""
    assert len(decided(f"{CALL},window,paged\n1,512,8,1,512,\n1,512,8,1,128,1\n")) == 2
    sizes = "".join(f"1,4096,8,1,{size},{paged}\n" for size in (8, 72, 120, 136, 256) for paged in ("", 1))
    assert len(decided(f"{CALL},head_dim,paged\n{sizes}")) == 10


def test_a_row_is_decided_for_each_kind_of_layer(decided: Any) -> None:
    rows = decided("batch,seqlen_k\n1,8192\n8,2048\n", "--model", "gpt-oss-20b", "--tp", "2", "--seqlen-q", "2", *VLLM)
    assert [(r["shape"]["batch"], r["shape"].get("window", 0)) for r in rows] == [(1, 0), (1, 128), (8, 0), (8, 128)]
    assert {r["shape"]["num_heads_q"] for r in rows} == {32} and {r["shape"]["seqlen_q"] for r in rows} == {2}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (f"{CALL},head_dim,head_dim_v\n1,512,16,1,576,512\n", (), "row 2: head_dim 576 with head_dim_v 512 is MLA"),
        (f"{CALL},head_dim,dtype\n1,512,8,1,72,fp8\n", (), "multiple of 16 in fp8"),
        (f"{CALL},window\n1,512,8,1,\n1,512,8,1,128\n", (), "row 3: fa3_fwd has no kernel with window: the sett"),
        (f"{CALL},window,sinks\n1,512,8,1,128,1\n", (), "fa3_fwd has no kernel with window and sinks"),
        (f"{CALL},sinks\n1,512,8,1,1\n", UPSTREAM, "upstream has no kernel with sinks: the setting vllm"),
        (f"{CALL},dtype\n1,512,8,1,int4\n", (), "column dtype: expected bf16 or fp8, got 'int4'"),
        (f"{CALL},softcap\n1,512,8,1,50\n", (), "column softcap: expected 1 or 0, got '50'"),
        (f"{CALL},window\n1,512,8,1,0\n", (), "column window: expected a whole number from 1"),
        (f"{CALL}\n1,512,8,1\n", ("--model", "qwen3-8b"), "column 'num_heads_q' beside --model"),
        (f"{CALL}\n1,512,8,1\n", ("--tp", "2"), "--tp needs --model"),
        ("batch,seqlen_k\n1,512\n", ("--model", "qwen3-8b", "--tp", "3"), "32 query heads cannot be cut for 3 GPUs"),
        ("batch,seqlen_k\n1,512\n", (), "no column num_heads_q, num_heads_kv"),
    ],
)  # fmt: skip
def test_mistakes_are_named(evosplit: Command, text: str, options: tuple[str, ...], message: str) -> None:
    Path("calls.csv").write_text(text)
    result = evosplit("decide", STOCK, "--shapes", "calls.csv", *options)
    assert result.code == 2 and message in result.err, result.err


def test_record_and_run_take_a_models_workload(evosplit: Command) -> None:
    dry = evosplit("record", "--model", "qwen2.5-7b", "--tp", "2", "--dry-run")
    assert dry.code == 0 and dry.out.startswith("h14x2 fa3_fwd-metadata-cold: 378 shapes")
    both = evosplit("record", "--model", "qwen2.5-7b", "--workload", "bsc-160", "--dry-run")
    assert both.code == 2 and "--model beside --workload" in both.err
    run = evosplit("run", "configs/quickstart.yaml", "--model", "qwen2.5-7b")
    assert run.code == 2 and "results/tables/h28x4/fa3_fwd-metadata-cold does not exist" in run.err
    resumed = evosplit("run", "--resume", "last", "--model", "qwen2.5-7b")
    assert resumed.code == 2 and "--resume takes the run's own workload" in resumed.err
