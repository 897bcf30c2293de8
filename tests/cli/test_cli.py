"""The command line as a user meets it: verbs, exit codes, and mistakes that end in two lines."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import ON_SMALL, ROOT, Command, FinishedRun

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.fa3.launch import canonical_launch
from evaluators.measure.device import TimingFitness
from evolve.cli.common import CEILING, ceiling_lines
from evolve.cli.run import _show_leader

STOCK = ROOT / "seeds" / "fa3_stock.py"
QUICKSTART = "configs/quickstart.yaml"
HEADER = "batch,seqlen_k,num_heads_q,num_heads_kv"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    (tmp_path / "short.py").write_text("def schedule(shape, gpu):\n    return 1, None\n")
    (tmp_path / "os.py").write_text("import os\n\n\ndef schedule(shape, gpu):\n    return 1, None, 0\n")
    (tmp_path / "syntax.py").write_text("def schedule(shape, gpu:\n")
    (tmp_path / "short.yaml").write_text("not: python or\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    (tmp_path / "other.jsonl").write_text("{}\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


LONG = "a" * 300
"""Longer than the name of a file may be."""

MISTAKES = [
    (["run"], 2, "Missing argument 'CONFIG'.", "configs/quickstart.yaml"),
    (["run", "nope.yaml"], 2, "nope.yaml does not exist", "configs/"),
    (["run", "configs/nope.yaml"], 2, "configs/nope.yaml does not exist", "quickstart.yaml"),
    (["run", "folder"], 2, "folder cannot be read", ""),
    (["run", "short.py"], 2, "unknown key", "known keys"),
    (["run", "broken.yaml"], 2, "broken.yaml is not YAML: expected the node content, but found", ""),
    (["run", QUICKSTART, "--set", "search.window=[1"], 2, "not a YAML value (expected ',' or ']'", "quote it"),
    (["run", "bytes.py"], 2, "bytes.py is not YAML", ""),
    (["run", QUICKSTART, "--set", "foo"], 2, "expected KEY=VALUE", "search.proposals"),
    (["run", QUICKSTART, "--set", "serch.proposals=3"], 2, "serch: unknown key", "did you mean search"),
    (["run", QUICKSTART, "--set", "search.proposal=3"], 2, "search.proposal: unknown", "did you mean proposals"),
    (["run", QUICKSTART, "--set", "search.proposals=many"], 2, "search.proposals", "config schema"),
    (["run", QUICKSTART, "--set", "judge.setting=vllm-metadata-colt"], 2, "judge.setting", "vllm-metadata-cold"),
    (["run", QUICKSTART, "--set", "judge.workload=other"], 2, "tables/other", "results/tables holds"),
    (["run", QUICKSTART, "--set", "judge.table=folder"], 2, "card.json", ""),
    (["run", QUICKSTART, "--set", "seeds=[nope.py]"], 2, "nope.py does not exist", ""),
    (["run", QUICKSTART, "--set", "name=../x"], 2, "name:", ""),
    (["run", QUICKSTART, "--set", "proposer.without=[other]"], 2, "no such edits: other", ""),
    (["run", QUICKSTART, "--name", ""], 2, "name:", ""),
    (["run", QUICKSTART, "configs/llama31-70b-static.yaml", "--name", "../x"], 2, "name:", ""),
    (["sweep", QUICKSTART, "--seeds", "0,1", "--name", ""], 2, "name:", ""),
    (["run", LONG], 2, "name too long", ""),
    (["run", "--resume", LONG], 2, "name too long", ""),
    (["run", "configs/openai.yaml"], 3, "OPENAI_API_KEY is not set", "export OPENAI_API_KEY"),
    (["run", "--resume", "nope"], 2, "no run 'nope'", ""),
    (["run", QUICKSTART, "--resume", "last"], 2, "--resume", "leave CONFIG"),
    (["run", "--resume", "last", "--set", "random_seed=1"], 2, "cannot change within a run", "search.proposals"),
    (["run", QUICKSTART, "--set", "seeds=[short.yaml]"], 2, "seed short.yaml: line 1", ""),
    (["evaluate", "nope.py"], 2, "nope.py does not exist", ""),
    (["evaluate", "seeds/nope.py"], 2, "seeds/nope.py does not exist", "fa3_stock.py"),
    (["evaluate", "nope#3"], 2, "no run 'nope'", ""),
    (["evaluate", "nope#x"], 2, "expected RUN#ID", ""),
    (["evaluate", LONG], 2, "name too long", ""),
    (["evaluate"], 2, "Missing argument", "evosplit evaluate --help"),
    (["nosuch"], 2, "nosuch", "evosplit --help"),
    (["run", QUICKSTART, "--set"], 2, "--set", "evosplit --help"),
    (["show", "last", "x"], 2, "ID", "evosplit show --help"),
    (["evaluate", "folder"], 2, "folder cannot be read", "RUN#ID"),
    (
        ["confirm", str(ROOT / "results/bundles/fa3-static")],
        2,
        "cannot be read",
        "confirm --provider",
    ),
    (["evaluate", "bytes.py"], 2, "UTF-8", ""),
    (["record", "--workload", "other", "--dry-run"], 2, "unknown workload 'other'", "llama31-70b"),
    (["record", "--setting", "other"], 2, "unknown setting 'other'", "fa3_fwd-metadata-cold"),
    (["record", "--part", "0/3", "-o", "x.jsonl"], 2, "--part 0/3", "--part 1/4"),
    (["record", "--part", "\u00b2/3", "-o", "x.jsonl"], 2, "--part \u00b2/3", "--part 1/4"),
    (["record", "--executor", "local", "--gpus", "\u00b2"], 2, "--gpus \u00b2", "--gpus 4"),
    (["record", "--minutes", "-1", "--dry-run"], 2, "--minutes", "evosplit record --help"),
    (["confirm", str(STOCK), "--minutes", "-1"], 2, "--minutes", "evosplit confirm --help"),
    (["record"], 2, "Missing option '-o'.", "-o slice.jsonl"),
    (["record", "-o", "nowhere/x.jsonl"], 2, "nowhere/x.jsonl cannot be written", "a folder that exists"),
    (["record", "--merge", "nope", "-o", "table"], 2, "nope does not exist", "record -o"),
    (["record", "--merge", "folder", "-o", "table"], 2, "folder is not a file", "record -o"),
    (["baselines", QUICKSTART, "--policy", "os.py", "-o", "b"], 2, "os.py: line 1: import", "evosplit evaluate"),
    (["doctor", "--endpoint", QUICKSTART], 2, "asks no endpoint", "configs/openai.yaml"),
    (["record", "--merge", "short.py", "-o", "table"], 2, "nothing recorded in short.py", ""),
    (
        ["record", "--merge", "other.jsonl", "-o", "table"],
        2,
        "is not a slice of evosplit record",
        "",
    ),
    (["show", "nope"], 2, "no run 'nope'", "evosplit run"),
    (["show", str(ROOT / "results/runs/languag-model")], 2, "no run", "results/runs/language-model"),
    (["show", "last", "--prompt"], 2, "--prompt needs", "--prompt"),
    (["diff", "short.py", "nope#3"], 2, "no run 'nope'", ""),
    (["diff", "short.py", "nope.py"], 2, "nope.py does not exist", ""),
    (["config", "validate", "short.py"], 2, "unknown key", ""),
    (["config", "validate", QUICKSTART, "--set", "seeds=[nope.py]"], 2, "nope.py does not exist", ""),
    (["decide", str(STOCK), "--shapes", "nope.csv"], 2, "nope.csv cannot be read", ""),
    (["decide", str(STOCK), "--shapes", "folder"], 2, "folder cannot be read", ""),
    (["decide", str(STOCK), "--shapes", "bytes.py"], 2, "CSV file in UTF-8", ""),
    (["decide", str(STOCK), "--shapes", "x.csv", "--setting", "vllm-metadata-colt"], 2, "unknown setting", "did you"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "said", "hinted"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_mistakes_end_in_two_lines(
    evosplit: Command,
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
    hinted: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = evosplit(*arguments)
    assert result.code == code, result.err
    assert result.out == ""
    error, *hints = result.err.splitlines()
    assert error.startswith("error: ") and said in error
    assert len(hints) <= 1 and all(h.startswith("hint: ") for h in hints)
    assert hinted in "".join(hints)
    assert not (programs / "runs").exists(), "a mistake leaves no run behind"


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_without_arguments_help_is_shown(evosplit: Command, arguments: list[str]) -> None:
    result = evosplit(*arguments)
    assert result.code == 2 and result.err.startswith("Usage: evosplit") and "error:" not in result.err


@pytest.mark.parametrize(
    ("name", "said"),
    [("short.py", "bad_answer: schedule must return"), ("os.py", "language: line 1"), ("syntax.py", "syntax: line 1")],
)
@pytest.mark.parametrize("verb", ["evaluate", "decide"])
def test_bad_programs_are_a_negative_verdict(
    evosplit: Command, programs: Path, verb: str, name: str, said: str
) -> None:
    (programs / "x.csv").write_text(f"{HEADER}\n1,4096,8,1\n")
    more = ["--shapes", "x.csv"] if verb == "decide" else []
    result = evosplit(verb, name, *more)
    assert result.code == 1 and said in result.out
    assert result.err == "" or ("for another kernel" in result.err and "bad_answer" in said)


def test_a_program_for_another_kernel_is_told_so(evosplit: Command) -> None:
    result = evosplit("evaluate", ROOT / "seeds" / "triton_naive.py")
    assert result.code == 1 and "bad_answer" in result.out and "judge.setting=triton_decode-metadata-cold" in result.err
    result = evosplit("evaluate", ROOT / "seeds" / "fa3_stock.py", "--set", "judge.setting=triton_decode-metadata-cold")
    assert result.code == 1 and "judge.setting=fa3_fwd-metadata-cold" in result.err


def test_decide_tells_a_program_for_another_kernel(evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{HEADER}\n1,4096,8,1\n")
    result = evosplit("decide", ROOT / "seeds" / "triton_naive.py", "--shapes", "x.csv")
    assert result.code == 1 and "bad_answer" in result.out
    assert "for another kernel: --setting triton_decode-metadata-cold" in result.err
    assert evosplit("decide", STOCK, "--shapes", "x.csv").code == 0


def test_a_seed_that_fails_on_the_shapes_leaves_no_run_behind(evosplit: Command, tmp_path: Path) -> None:
    wrong = ["--set", f"seeds=[{ROOT / 'seeds' / 'triton_naive.py'}]", *ON_SMALL]
    for arguments in (["run", QUICKSTART, *wrong], ["config", "validate", QUICKSTART, *wrong]):
        result = evosplit(*arguments)
        assert result.code == 2 and "triton_naive.py fails: bad_answer" in result.err, result.err
        assert "hint: it was asked for fa3_fwd-metadata-cold (fa3); for another kernel: --set" in result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("more", [["--set", "seeds=[{}]", "--method", "best-of-n"], ["--policy", "{}"]])
def test_baselines_tell_a_program_for_another_kernel(evosplit: Command, tmp_path: Path, more: list[str]) -> None:
    named = [text.format(ROOT / "seeds" / "triton_naive.py") for text in more]
    result = evosplit("baselines", QUICKSTART, *ON_SMALL, *named, "--method", "policy-coordinate", "-o", "b")
    assert result.code == 2 and "triton_naive.py fails: bad_answer" in result.err and "for another kernel" in result.err
    assert not (tmp_path / "b").exists()


def test_a_run_where_a_program_or_a_sweep_is_expected(evosplit: Command, finished_run: FinishedRun) -> None:
    (run,) = (path.name for path in finished_run.runs_dir.iterdir() if path.is_dir())
    where = ("--runs-dir", str(finished_run.runs_dir))
    for name in (run, "last"):
        result = evosplit("diff", name, str(STOCK), *where)
        assert result.code == 2 and f"{name} is a run, expected a program" in result.err and f"{name}#ID" in result.err
    result = evosplit("sweep", "--resume", run, *where)
    assert result.code == 2 and "is one run, not a sweep" in result.err and "evosplit run --resume" in result.err


@pytest.mark.parametrize(("leads", "how"), [(1.02, "worse"), (1.03, "no better")])
def test_a_leader_that_did_not_win_is_not_called_worse_without_need(
    monkeypatch: pytest.MonkeyPatch, leads: float, how: str
) -> None:
    monkeypatch.setattr("evolve.cli.run._show", lambda *_: None)
    scores = ((1, leads), (2, 1.03))
    one, other = (SimpleNamespace(id=i, holdout=SimpleNamespace(score=s), source="") for i, s in scores)
    told: list[str] = []
    _show_leader(SimpleNamespace(leader=one, best=other), Mock(), told.append)  # type: ignore[arg-type]
    assert told == [f"\nleader on the training shapes, {how} on the holdout: proposal 1"]


def test_evaluate_prints_scores_and_what_is_left(evosplit: Command) -> None:
    result = evosplit("evaluate", STOCK)
    assert result.code == 0
    assert "train       1.0000   1.0000x" in result.out and "by region" in result.out


CSV_MISTAKES = [
    ("", "no column batch, seqlen_k, num_heads_q, num_heads_kv"),
    ("batch,seqlen_k\n1,2\n", "no column num_heads_q, num_heads_kv"),
    (f"{HEADER}\n", "holds no shape"),
    (f"{HEADER},colour\n1,2,8,1,red\n", "unknown column 'colour'"),
    (f"{HEADER},batch\n1,2,8,1,3\n", "two columns 'batch'"),
    (f"{HEADER}\n1,100,8,1\n1,abc,8,1\n", "row 3, column seqlen_k: expected a whole number"),
    (f"{HEADER}\n1,1_0,8,1\n", "row 2, column seqlen_k"),
    (f"{HEADER}\n-1,100,8,1\n", "row 2, column batch: expected a whole number from 1"),
    (f"{HEADER}\n2000000000,100,8,1\n", "row 2, column batch: expected a whole number from 1 to 65535"),
    (f"{HEADER}\n1,{10**40},8,1\n", "row 2, column seqlen_k"),
    (f"{HEADER}\n1,100,8\n", "row 2, column num_heads_kv"),
    (f"{HEADER}\n\n\n1,100,8\n", "row 4, column num_heads_kv"),
    ("batch;seqlen_k;num_heads_q;num_heads_kv\n1;2;8;1\n", "no column batch"),
    (f"{HEADER}\n1,100,8,1,9\n", "row 2: more values than columns"),
    (f"{HEADER}\n1,100,8,3\n", "row 2: num_heads_q (8) must be a multiple"),
    (f"{HEADER},mode\n1,100,8,1,fast\n", "row 2, column mode"),
    (f"{HEADER},paged\n1,100,8,1,maybe\n", "row 2, column paged"),
    (f"{HEADER},live_seqlens\n2,100,8,1,5\n", "row 2: live_seqlens has 1 lengths"),
    (f"{HEADER},live_seqlens\n2,100,8,1,5 200\n", "row 2: live_seqlens must lie in"),
    (f"{HEADER},live_seqlens\n2,100,8,1,5 x\n", "row 2, column live_seqlens"),
    (f"{HEADER},mode,live_seqlens\n2,100,8,1,static,5 6\n", "row 2: live_seqlens need mode"),
    (f"{HEADER},head_dim\n1,100,8,1,512\n", "row 2: head_dim must be at most 256"),
]


@pytest.mark.parametrize(("text", "said"), CSV_MISTAKES)
def test_csv_mistakes_name_row_and_column(evosplit: Command, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    result = evosplit("decide", STOCK, "--shapes", "x.csv")
    assert result.code == 2 and result.out == ""
    assert result.err.startswith("error: x.csv") and said in result.err


CSV = (
    "\ufeffbatch, seqlen_k,num_heads_q,num_heads_kv,seqlen_q,head_dim,mode,paged,live_seqlens\r\n"
    "2,5000,8,1,1,64,static,,\r\n\r\n2,5000,8,1,2,,metadata,1,5000 100\r\n3,1000,64,8,,,varlen,no,\r\n"
)
CSV_SHAPES = [
    DecodeShape(2, 5000, 8, 1, head_dim=64),
    DecodeShape(2, 5000, 8, 1, seqlen_q=2, live_seqlens=(5000, 100)),
    DecodeShape(3, 1000, 64, 8),
]


@pytest.mark.parametrize("sandboxed", [True, False])
def test_decide_answers_in_input_order(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandboxed: bool
) -> None:
    if not sandboxed:
        # As on macOS.
        monkeypatch.setattr("evaluators.sandbox.confine.unsupported", lambda: "no seccomp here")
        monkeypatch.setattr(import_module("evolve.decisions"), "self_test", _failed_self_test())
    (tmp_path / "x.csv").write_bytes(CSV.encode())
    result = evosplit("decide", STOCK, "--shapes", "x.csv", "--json")
    assert result.code == 0, result.err
    decisions = result.json["decisions"]
    assert [d["shape"]["mode"] for d in decisions] == ["static", "metadata", "varlen"]
    assert [d["shape"]["paged"] for d in decisions] == [False, True, False]
    assert [d["shape"]["batch"] for d in decisions] == [s.batch for s in CSV_SHAPES]
    assert decisions[1]["shape"]["live_seqlens"] == [5000, 100]
    for shape, row in zip(CSV_SHAPES, decisions, strict=True):
        assert len(row["launch"]["live_splits"]) == shape.batch
        # The stock seed decides what FA3 decides for itself.
        setting = SETTINGS["vllm-metadata-cold" if row["shape"]["paged"] else "fa3_fwd-static-cold"]
        if row["shape"]["mode"] == setting.mode.value:
            assert row["launch"]["key"] == canonical_launch(shape, setting, Decision(), Gpu()).key


def test_decide_takes_many_shapes(evosplit: Command, tmp_path: Path) -> None:
    lengths = range(1, 2502)
    (tmp_path / "x.csv").write_text(f"{HEADER}\n" + "".join(f"1,{n},8,1\n" for n in lengths))
    decisions = evosplit("decide", STOCK, "--shapes", "x.csv", "--json").json["decisions"]
    assert [d["shape"]["seqlen_k"] for d in decisions] == list(lengths)


def _failed_self_test() -> object:
    from evaluators.sandbox.sandbox import SelfTest

    return lambda: SelfTest(False, {}, ("the sandbox needs Linux (seccomp), this is darwin",), "use a Linux system")


@pytest.mark.parametrize("arguments", [["run", QUICKSTART], ["evaluate", str(STOCK)]])
def test_without_a_sandbox_nothing_is_judged(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(import_module("evolve.run"), "self_test", _failed_self_test())
    result = evosplit(*arguments)
    assert result.code == 3
    assert "needs Linux" in result.err and "hint: use a Linux system" in result.err
    assert not (tmp_path / "runs").exists()


def test_what_works_without_a_sandbox(
    evosplit: Command, finished_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("evolve.cli.doctor"), "self_test", _failed_self_test())
    assert evosplit("show", finished_run.folder).code == 0
    assert evosplit("doctor").code == 3


@pytest.mark.parametrize(
    ("problem", "doubts", "fit"), [("", (), True), ("", ("it is hot",), False), ("MIG", (), False)]
)
def test_doctor_says_whether_a_gpu_is_fit_to_be_timed(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, problem: str, doubts: tuple[str, ...], fit: bool
) -> None:
    doctor = import_module("evolve.cli.doctor")
    monkeypatch.setattr(doctor, "_gpu", lambda: problem)
    monkeypatch.setattr(doctor, "_fitness", lambda: TimingFitness(("driver 580",), doubts))
    assert evosplit("doctor", "--json").json["gpu"]["fit"] is fit
    said = evosplit("doctor").out
    assert ("fit to be timed: driver 580" in said) is fit and all(doubt in said for doubt in doubts)


def test_show_and_diff(finished_run: FinishedRun, evosplit: Command) -> None:
    runs = ["--runs-dir", finished_run.runs_dir]
    shown = evosplit("show", "last", *runs)
    proposals, outcome = shown.out.split("\n\n", 1)
    assert shown.code == 0 and shown.err == "" and len(proposals.splitlines()) == 6  # with a heading
    assert f"winner     {finished_run.folder}/best.py" in outcome
    one = evosplit("show", "last", 1, *runs)
    assert one.code == 0 and "def schedule" in one.out
    prompt = evosplit("show", "last", 1, "--prompt", *runs)
    assert "The program to improve" in prompt.out and "--- answer" in prompt.out
    assert evosplit("show", "last", 1, "--json", *runs).json["parent"] == 0
    assert evosplit("show", "last", 99, *runs).code == 2
    same = evosplit("diff", STOCK, f"{finished_run.folder.name}#0", *runs)
    assert same.code == 0 and same.out == ""
    other = evosplit("diff", STOCK, finished_run.result.json["best"]["path"], *runs)
    assert other.code == 1 and other.out.startswith("---")


def test_text_of_a_model_cannot_drive_the_terminal(evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x\n")
    (tmp_path / "b.py").write_text("x\n# \x1b]0;owned\x07\n")
    result = evosplit("diff", "a.py", "b.py")
    assert "\x1b" not in result.out and "\\x1b]0;owned" in result.out


def test_config_verbs(evosplit: Command) -> None:
    shown = evosplit("config", "show", QUICKSTART, "--set", "search.proposals=7")
    assert shown.code == 0 and "proposals: 7" in shown.out
    assert evosplit("config", "validate", QUICKSTART).code == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_configs_that_ship_are_valid(evosplit: Command, path: Path) -> None:
    assert evosplit("config", "validate", path).code == 0


def test_record_dry_run_needs_no_gpu(evosplit: Command) -> None:
    result = evosplit("record", "--dry-run", "--part", "1/2")
    assert result.code == 0 and "756 shapes" in result.out and "GPU minutes and 2." in result.out and "MB" in result.out


def test_a_learners_share_stands_beside_the_oracles_where_it_was_studied() -> None:
    about = {"workload": "llama31-70b", "weighting": "serving", "setting": "vllm-metadata-cold"}
    (line,) = ceiling_lines(about)
    assert line.endswith(f"[{CEILING}]") and line.count("%") == 2 and "cap by capacity" in line
    for other in ({"setting": "fa3_fwd-metadata-hot"}, {"workload": "bsc-160"}, {"weighting": "chat"}):
        assert ceiling_lines({**about, **other}) == []
