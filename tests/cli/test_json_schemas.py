"""JSON that others rely on: what the commands print agrees with docs/schema/."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_TABLE, Command, FinishedRun
from json_schemas import NAMES, check, schema
from jsonschema import Draft202012Validator, ValidationError

from evaluators.data.status import Status

STOCK = ROOT / "seeds" / "fa3_stock.py"


@pytest.mark.parametrize("name", NAMES)
def test_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


def test_evaluate(evosplit: Command) -> None:
    result = evosplit("evaluate", STOCK, "--table", SMALL_TABLE, "--json")
    assert result.code == 0
    check("evaluate", result.json)
    assert "test" not in result.json
    # The stock decision is the baseline of this setting.
    for split in ("train", "holdout"):
        assert result.json[split]["score"] == 1.0
        assert result.json[split]["regressions"] == 0


def test_evaluate_a_failure(evosplit: Command, tmp_path: Path) -> None:
    program = tmp_path / "bad.py"
    program.write_text("def schedule(shape, gpu):\n    return 1 / 0, None, 0\n")
    result = evosplit("evaluate", program, "--json")
    assert result.code == 1
    check("evaluate", result.json)
    assert result.json["status"] == "raised" and result.json["train"] is None


def test_evaluate_sealed_is_logged(evosplit: Command, tmp_path: Path) -> None:
    result = evosplit("evaluate", STOCK, "--table", SMALL_TABLE, "--sealed", "--json")
    check("evaluate", result.json)
    assert result.json["test"]["score"] == 1.0
    (row,) = (tmp_path / "state" / "evosplit" / "sealed-reads.jsonl").read_text().splitlines()
    assert json.loads(row)["program"] == str(STOCK)


def test_run_and_show(finished_run: FinishedRun, evosplit: Command) -> None:
    ran = finished_run.result.json
    check("run", ran)
    shown = evosplit("show", finished_run.folder, "--json").json
    check("run", shown)
    assert {**shown, "path": ""} == {**ran, "path": ""}
    listed = evosplit("ls", "--runs-dir", finished_run.runs_dir, "--json").json
    check("run", listed["runs"][0])


def test_decide(evosplit: Command, tmp_path: Path) -> None:
    shapes = tmp_path / "shapes.csv"
    shapes.write_text(
        "batch,seqlen_k,num_heads_q,num_heads_kv,mode,paged,live_seqlens\n"
        "1,4096,8,1,static,,\n2,4096,8,1,metadata,,100 4000\n3,1000,64,8,varlen,1,\n"
    )
    result = evosplit("decide", STOCK, "--shapes", shapes, "--json")
    assert result.code == 0, result.err
    check("decide", result.json)


def test_doctor(evosplit: Command) -> None:
    result = evosplit("doctor", "--json")
    assert result.code == 0, result.out
    check("doctor", result.json)
    assert "llama31-70b/fa3_fwd-metadata-cold" in result.json["tables"]


def test_config_schema_is_the_one_in_the_repository(evosplit: Command) -> None:
    assert json.loads(evosplit("config", "schema").out) == schema("config"), (
        "evosplit config schema differs from docs/schema/config.json: write it there again"
    )


def test_statuses_are_those_of_the_judge() -> None:
    run = schema("run")["properties"]["statuses"]["propertyNames"]["enum"]
    assert set(run) == {s.value for s in Status}
    assert set(schema("evaluate")["properties"]["status"]["enum"]) < set(run)


@pytest.mark.parametrize("wrong", [{"oracle_share": "all"}, {"regressions": -1}, {"surplus": 1}])
def test_schemas_refuse_what_is_wrong(finished_run: FinishedRun, wrong: dict[str, object]) -> None:
    data = copy.deepcopy(finished_run.result.json)
    data["best"]["train"].update(wrong)
    with pytest.raises(ValidationError):
        check("run", data)
