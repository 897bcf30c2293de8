"""Certificates: the bound, guards by class, fresh shapes from confirmations, and the choice of a margin."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Command
from hypothesis import given
from hypothesis import strategies as st
from json_schemas import check

import evolve.export.bundle.drop_in
import evolve.export.bundle.export
import evolve.export.certify.classes
from evaluators.data.contract import Gpu
from evaluators.language.gate import parse_program
from evolve.assets import read_text
from evolve.errors import UserError
from evolve.export.certify.bound import CONFIDENCE, SlowerCount, most_slower, shapes_needed, upper_bound
from evolve.export.certify.certificate import Certificate, certify
from evolve.export.certify.classes import CallClass, SplitsGrid, capped_source, class_of, guarded_source
from evolve.export.certify.curve import certificate_csv, certificate_png, curve_lines
from evolve.export.certify.fresh import confirmed_shapes
from evolve.export.evidence.evidence import gather, recorded_tables
from evolve.export.evidence.harm import SLOWER
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import TARGETS

STATIC = ROOT / "results" / "champions" / "fa3-static.py"
REPORT = ROOT / "results" / "confirm" / "fa3-static" / "confirm.json.gz"
COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_the_bound_covers_as_often_as_it_says(count: tuple[int, int]) -> None:
    slower, shapes = count
    bound = upper_bound(slower, shapes)
    if slower == shapes:
        assert bound == 1.0
        return
    assert slower / shapes < bound < 1
    # Were the bound the true share, so few slower shapes would be seen in one sample of twenty.
    seen = math.fsum(
        math.exp(
            math.lgamma(shapes + 1) - math.lgamma(k + 1) - math.lgamma(shapes - k + 1)
            + k * math.log(bound) + (shapes - k) * math.log1p(-bound)
        )
        for k in range(slower + 1)
    )  # fmt: skip
    assert seen == pytest.approx(1 - CONFIDENCE, rel=1e-6)


@given(COUNTS)
def test_the_bound_rises_with_slower_shapes_and_falls_with_more_looked_at(count: tuple[int, int]) -> None:
    slower, shapes = count
    assert upper_bound(slower, shapes + 1) < upper_bound(min(slower + 1, shapes + 1), shapes + 1)
    assert upper_bound(slower, shapes + 1) < upper_bound(slower, shapes) or slower == shapes


@given(st.floats(0.002, 0.5))
def test_as_few_shapes_as_needed_certify_a_share(share: float) -> None:
    needed = shapes_needed(share)
    assert upper_bound(0, needed) < share <= upper_bound(0, needed - 1) or needed == 1
    assert most_slower(share, needed) == 0 and most_slower(share, needed - 1) == -1


def test_no_shape_certifies_nothing() -> None:
    assert upper_bound(0, 0) == 1.0
    assert shapes_needed(0.005) == 598
    with pytest.raises(ValueError, match="expected 0 to 3 slower shapes, got 4"):
        upper_bound(4, 3)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_call_lies_in_its_class(blocks: int, tiles: int) -> None:
    found = class_of(blocks, tiles)
    assert found.blocks[0] <= blocks <= found.blocks[1] and found.tiles[0] <= tiles <= found.tiles[1]
    assert class_of(found.blocks[1], found.tiles[0]) == found


PROGRAM = '''\
"""A program."""


def schedule(shape, gpu):
    # Always three.
    if shape.num_heads_kv == 1:
        return 0, None, 0
    return 3, None, 0
'''


@given(st.sets(st.builds(class_of, st.integers(1, 80), st.integers(1, 600)), min_size=1), st.data())
def test_the_guard_leaves_other_classes_to_stock(kept: set[CallClass], data: st.DataObject) -> None:
    blocks, tiles = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 700))
    source = guarded_source(parse_program(PROGRAM), kept, "Kept.")
    parse_program(source)
    names: dict[str, object] = {}
    exec(source, names)
    shape = SimpleNamespace(num_n_blocks=blocks, batch=tiles, num_heads_kv=1)
    two = SimpleNamespace(num_n_blocks=blocks, batch=tiles, num_heads_kv=2)
    assert names["schedule"](shape, None) == (0, None, 0)  # type: ignore[operator]
    wanted = 3 if class_of(blocks, 2 * tiles) in kept else 0
    assert names["schedule"](two, None) == (wanted, None, 0)  # type: ignore[operator]


def test_a_guard_takes_a_name_that_is_free() -> None:
    source = guarded_source(parse_program(PROGRAM), {class_of(4, 8)}, "Kept.")
    twice = guarded_source(parse_program(source), {class_of(3, 8)}, "Kept again.")
    assert "def clears_margin_2(" in twice and "    # Always three.\n    if shape" in twice
    parse_program(twice)


def test_a_cap_is_the_number_of_blocks() -> None:
    text = PROGRAM.replace("return 3,", "return 64 if shape.batch > 2 else 32,")
    assert "return min(64 if shape.batch > 2 else 32, shape.num_n_blocks), None, 0" in capped_source(
        parse_program(text)
    )
    assert "return 0, None, 0" in capped_source(parse_program(text))


def test_kept_classes_never_lower_num_splits_with_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (
        ("SM_COUNTS", (132,)),
        ("BATCHES", (1, 8)),
        ("HEADS_KV_BY_BATCH", (1, 8)),
        ("GRID_BLOCKS", 40),
    ):
        monkeypatch.setattr(evolve.export.certify.classes, name, values)
    grid = SplitsGrid(parse_program("def schedule(shape, gpu):\n    return 32, None, 0\n"))
    gains = {class_of(n, t): 0.01 for n in range(1, 40) for t in (1, 8, 64)}
    assert grid.rising(gains, gains) == set(gains)
    # 32 splits at 4 blocks, and stock's few behind them.
    assert not grid.rising({class_of(4, 1)}, gains)


@pytest.fixture(scope="module")
def tables() -> dict:  # type: ignore[type-arg]
    return recorded_tables(TARGETS["fa3"], ROOT / "results" / "tables")


@pytest.fixture(scope="module")
def certified(tables: dict) -> Certificate:  # type: ignore[type-arg]
    return certify(parse_program(STATIC.read_text()), TARGETS["fa3"], tables, Gpu(), Domain(varlen=False), 0.03)


def test_the_margin_is_certified_on_shapes_that_did_not_choose_it(
    tables: dict,  # type: ignore[type-arg]
    certified: Certificate,
) -> None:
    target, found, step = TARGETS["fa3"], certified, certified.step
    assert found.holds and step.slower["fresh"] == SlowerCount(3, 260) and step.slower["holdout"].slower == 0
    assert 0.95 < step.kept["fresh"] < 1 and step.kept["fresh"] > found.curve[-1].kept["fresh"]
    # The guarded program, asked again, does what the certificate says.
    rows = [r for r in gather(target, parse_program(found.source), tables, Gpu()) if not r.view.varlen and r.result]
    slower = {
        (r.workload, r.case.id, r.case.split.value)
        for r in rows
        if r.changed and r.result and r.result.log_speedup < -math.log1p(SLOWER)
    }
    counts = {n: sum(s == split for *_, s in slower) for n, split in
              (("train", "train"), ("holdout", "holdout"), ("fresh", "test"))}  # fmt: skip
    assert counts == {n: c.slower for n, c in step.slower.items()}
    assert certificate_csv(found).count("\n") == len(found.curve) + 1
    assert max(map(len, curve_lines(found))) <= 80 and sum(" *" in x for x in curve_lines(found)[1:]) == 1


def test_too_few_fresh_shapes_say_how_many_would_do(tables: dict) -> None:  # type: ignore[type-arg]
    program = parse_program(STATIC.read_text())
    with pytest.raises(UserError, match=r"260 fresh shapes cannot certify .* 0\.50%") as refused:
        certify(program, TARGETS["fa3"], tables, Gpu(), Domain(varlen=False), 0.005)
    assert "598 shapes" in str(refused.value.hint) and refused.value.exit_code == 1


def test_confirmed_shapes_count_once_and_only_where_the_launch_was_measured(tmp_path: Path) -> None:
    target, static = TARGETS["fa3"], Domain(varlen=False)
    champion = parse_program(STATIC.read_text())
    found = confirmed_shapes([REPORT, REPORT], champion, target, static)
    told = [s for s in json.loads(read_text(REPORT))["shapes"] if s["group"] in ("sealed", "fresh")]
    assert len(found) == 2 * len(told) and len({s.key for s in found}) == len(told)
    assert sum(s.log_gain == 0 for s in found[: len(told)]) == sum(s["same_launch"] for s in told)
    stock = parse_program("def schedule(shape, gpu):\n    return 0, None, 0\n")
    assert {s.log_gain for s in confirmed_shapes([REPORT], stock, target, static)} == {0.0}
    other = parse_program("def schedule(shape, gpu):\n    return 7, None, 0\n")
    with pytest.raises(UserError, match="what the report did not measure"):
        confirmed_shapes([REPORT], other, target, static)
    on_h200 = Domain(varlen=False, card="NVIDIA H200")
    with pytest.raises(UserError, match="measured on an NVIDIA H100 80GB HBM3, the patch decides on an NVIDIA H200"):
        confirmed_shapes([REPORT], champion, target, on_h200)
    with pytest.raises(UserError, match="does not decide"):
        confirmed_shapes([REPORT], champion, target, Domain(varlen=True))
    broken = tmp_path / "confirm.json"
    for text in ("{}", "[1]", json.dumps({"setting": "fa3_fwd-static-cold", "against": "the stock decision",
                                          "shapes": [{}]})):  # fmt: skip
        broken.write_text(text)
        with pytest.raises(UserError, match="cannot be read as a report"):
            confirmed_shapes([broken], champion, target, static)
    whole = read_text(REPORT).encode()
    for name, data in (
        ("confirm.json", whole), ("confirm.json.gz", gzip.compress(whole)), ("confirm.json.xz", lzma.compress(whole))
    ):  # fmt: skip
        packed = tmp_path / name
        packed.write_bytes(data)
        assert confirmed_shapes([packed], champion, target, static) == confirmed_shapes(
            [REPORT], champion, target, static
        )
        if name != "confirm.json":
            for damaged in (data[:1000], data[:1000] + bytes(200) + data[1200:]):
                packed.write_bytes(damaged)
                with pytest.raises(UserError, match="is damaged or cut off"):
                    confirmed_shapes([packed], champion, target, static)


def test_a_report_that_cannot_be_read_is_told_before_any_work(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.bundle.export, "_certified", lambda *_, **__: pytest.fail("it worked first"))
    result = evosplit("export", STATIC, "--target", "python", "--partial", "-o", tmp_path / "out", "--certify", "0.03",
                      "--certify-from", "nope.json")  # fmt: skip
    assert result.code == 2 and "nope.json cannot be read as a report" in result.err, result.err


@pytest.mark.slow
def test_the_bundle_holds_the_guarded_program_and_the_curve(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.bundle.drop_in, "RANDOM_INPUTS", 1500)
    out = tmp_path / "out"
    call = ("export", STATIC, "--target", "python", "--partial", "--json", "-o", out, "--certify")
    refused = evosplit(*call, "0.02")
    assert refused.code == 1 and not out.exists() and "not certified below 2.00%: 3 of 260 fresh shapes" in refused.err
    assert refused.err.count("%    ") > 9
    result = evosplit(*call, "0.03")
    assert result.code == 0, result.err
    check("export", result.json)
    told = result.json["certificate"]
    assert (
        told["bound"] < 0.03
        and told["modes"] == "static mode"
        and "varlen and metadata mode" in result.json["left_out"]
    )
    assert (
        "clears_margin" in (out / "launch_arguments.py").read_text()
        and "clears_margin" in (out / "program.py").read_text()
    )
    assert (out / "original.py").read_text() == STATIC.read_text()
    assert (out / "certificate.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "certificate.csv").read_text().splitlines()[-1].startswith("0.08,16,")


GUARDED = ROOT / "results" / "certificates"
LIVE = ROOT / "results" / "confirm"


def test_a_guarded_program_is_certified_on_live_shapes_as_it_is(
    tables: dict,  # type: ignore[type-arg]
) -> None:
    source = (GUARDED / "fa3-static-guarded.py").read_text()
    target = TARGETS["fa3"]
    reports = [LIVE / "fa3-static-guarded" / "confirm.json.gz"]
    found = certify(parse_program(source), target, tables, Gpu(), Domain(varlen=False), 0.005, reports=reports)
    count = found.step.slower["fresh"]
    assert found.holds and (count.slower, count.shapes) == (2, 2628)
    # Margins keep the same gain on holdout shapes: a program that needs no guard gets none.
    assert found.step.margin is None and found.source == source
    report = json.loads(read_text(reports[0]))
    assert report["losses"]["fresh"]["gain_kept"] > 0.9 and report["losses"]["fresh"]["bound"] < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target_name", "certified", "missed"),
    [
        ("fa3-metadata-even", "fa3-whole", 0.005, 0.003),
        ("vllm-metadata-abstains", "fa3-vllm-prepare", 0.006, 0.005),
    ],
)
def test_where_lengths_decide_the_program_itself_is_certified(
    name: str, target_name: str, certified: float, missed: float
) -> None:
    source = (GUARDED / f"{name}.py").read_text()
    target = TARGETS[target_name]
    reports = [LIVE / name / "confirm.json.gz"]
    tables = recorded_tables(target, ROOT / "results" / "tables")
    given_to = (parse_program(source), target, tables, Gpu(), Domain(varlen=True))
    found = certify(*given_to, certified, reports=reports)
    assert found.holds and found.step.margin is None and found.source == source and len(found.curve) == 1
    assert not certify(*given_to, missed, reports=reports).holds
    assert certificate_png(found).startswith(b"\x89PNG")


def test_a_champion_that_slows_training_shapes_gets_a_guard(certified: Certificate) -> None:
    assert certified.step.margin == 0.015 and certified.holds
