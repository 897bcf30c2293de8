"""The dashboard's page: its front end, what is packed into it, the reports that hold it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, FinishedRun

from evaluators.data.status import Status
from evolve.dashboard.page import MODULES, VENDORED, page, policy, script, static, style
from evolve.dashboard.report import block, pack_candidates, report
from evolve.dashboard.views.candidate import candidate, candidates
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.shapes import recording_of


def unblock(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_packing_loses_nothing(small: RunReader) -> None:
    recording, _ = recording_of(small)
    packed = unblock(block(pack_candidates(candidates(small, recording), recording)))
    chosen: dict[int, list[int]] = {}
    assert len(packed["candidates"]) == len(small.nodes)
    for row in packed["candidates"]:
        index, texts, base, changes, constants = row
        document = candidate(small, index, recording)
        for name, number in zip(packed["texts"], texts, strict=True):
            lines = packed["documents"][number]
            assert "\n".join(packed["lines"][i] for i in lines) == document[name]  # type: ignore[literal-required]
        picks = changes if base is None else list(chosen[base])
        if base is not None:
            assert len(changes) < len(picks)
            for i, k in zip(changes[::2], changes[1::2], strict=True):
                picks[i] = k
        chosen[index] = picks
        unpacked = [
            dict(zip(packed["outcome_fields"], packed["outcomes"][i][k], strict=True)) for i, k in enumerate(picks)
        ]
        assert unpacked == document["outcomes"]
        assert constants == document["constants"]


def test_modules_import_what_is_there_and_in_order() -> None:
    exported: dict[str, set[str]] = {}
    for name in MODULES:
        if name in VENDORED:
            exported[name] = {VENDORED[name]}
            continue
        source = static(name)
        for names, module in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)";', source):
            assert module in exported, f"{name} imports {module}, which comes later or not at all"
            wanted = {n.strip() for n in names.split(",") if n.strip()}
            assert wanted <= exported[module], f"{name} imports {wanted - exported[module]} from {module}"
        exported[name] = set(re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", source, re.MULTILINE))
    assert {p.name for p in (ROOT / "evolve/dashboard/static").glob("*.js")} == set(MODULES)
    assert not re.search(r"^(import|export) ", script(), re.MULTILINE)


@pytest.mark.parametrize(
    "word",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://", "https://"],
)
def test_the_front_end_parses_no_markup_and_asks_nobody(word: str) -> None:
    allowed = {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}
    text = script()
    for phrase in allowed:
        text = text.replace(phrase, "")
    assert word not in text


def test_vendored_files_are_those_that_were_published() -> None:
    rows = re.findall(r"^\| (\S+) +\| `.*\| ([0-9a-f]{64}) \|$", static("VENDORED.md"), re.MULTILINE)
    assert {name for name, _ in rows} == {*VENDORED, "uplot.css"}
    for name, digest in rows:
        assert hashlib.sha256(static(name).encode()).hexdigest() == digest, name


def test_the_page_knows_every_status() -> None:
    groups = static("scales.js").split("GROUPS = [", 1)[1].split("];", 1)[0]
    assert set(re.findall(r'"(\w+)"', " ".join(re.findall(r"statuses: \[([^\]]*)\]", groups)))) == {
        *(s.value for s in Status),
        "asked",
        "answered",
    }


def test_hostile_text_never_reaches_the_page_as_markup(small: RunReader) -> None:
    text = report([small])
    assert "pwned" not in text
    assert text.count("<script") == 4 and text.count("</script>") == 4  # three blocks and the front end
    assert "pwned" in json.dumps(unblock(re.findall(r'id="data-candidates-0">([^<]*)<', text)[0]))


def test_policy_names_what_is_in_the_page() -> None:
    text = page({}, live=False)
    assert static("uplot.css") in style()
    for tag in ("style", 'script type="module"'):
        body = text.split(f"<{tag}>", 1)[1].split(f"</{tag.split()[0]}>", 1)[0]
        assert base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() in policy(live=False)
    assert "connect-src 'none'" in policy(live=False) and "unsafe" not in policy(live=True)


def test_report_command(evosplit: Command, finished_run: FinishedRun, tmp_path: Path) -> None:
    result = evosplit("report", finished_run.folder)
    assert result.code == 0, result.err
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    again = evosplit("report", finished_run.folder)
    assert again.code == 2 and "--force" in again.err
    options = ("--force", "--timeline", "t.json", "--pictures", "pictures")
    lines = evosplit("report", finished_run.folder, *options).out
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        f"{name}.{suffix}" for name in ("search", "lineage", "speedup") for suffix in ("png", "svg", "pdf")
    }
    assert b"/FontFile2" in (tmp_path / "pictures" / "search.pdf").read_bytes()  # fonts come with it
    assert "<text" not in (tmp_path / "pictures" / "search.svg").read_text()  # text as outlines
    again = evosplit("report", finished_run.folder, "--pictures", "pictures")
    assert again.code == 2 and "--force" in again.err
    assert "speedup.png" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no run 'nothing'"),
        (["{run}", "--json", "views"], "no view 'views'"),
        (["{run}", "--json", "compare"], "takes 2 RUNs"),
        (["{run}#99", "--json", "candidate"], "no proposal 99"),
        (["{run}", "{run}"], "the same run twice"),
        (["{run}", "--json", "grid", "-o", "x.html"], "writes no file"),
        (["{run}", "-o", "nowhere/x.html"], "cannot be written"),
    ],
)
def test_report_says_what_is_wrong(arguments: list[str], words: str, evosplit: Command, small: RunReader) -> None:
    result = evosplit("report", *(a.format(run=small.folder) for a in arguments))
    assert result.code == 2 and words in result.err and "Traceback" not in result.err


def test_a_run_writes_its_report(finished_run: FinishedRun) -> None:
    path = finished_run.folder / "report.html"
    assert str(path) in finished_run.result.err
    assert "data-shapes-0" in path.read_text(encoding="utf-8")
