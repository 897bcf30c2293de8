"""`evosplit confirm`: a paired comparison of two programs on a live GPU, in a fresh process."""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import typer

from evaluators.confirm.confirm import (
    UNSEEN,
    Group,
    ShapeVerdict,
    Subject,
    SuiteVerdict,
    build_suite,
    confirm_shapes,
    decisions_of,
    judge_suite,
)
from evaluators.data.contract import LIVE_SETTINGS, Cache, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision
from evaluators.data.workloads import Case
from evaluators.language.gate import named_program
from evaluators.measure import pairing
from evaluators.measure.pairing import Interval, Verdict
from evaluators.sandbox.sandbox import Limits
from evaluators.targets.registry import target_of, target_of_decision, with_live_lengths
from evolve.assets import asset
from evolve.cli.common import STOCK, compact_json, emit, report_folder, say
from evolve.cli.evaluate import DEFAULT_CONFIG
from evolve.cli.failures import kept_at_stop
from evolve.cli.tokens.tpot import (
    TokenJob,
    TokenReport,
    measure_tokens,
    print_tokens,
    require_step_packages,
    token_cases,
    token_shard,
)
from evolve.config import RunConfig, load_config
from evolve.errors import EXIT_BUDGET, EXIT_MISSING, EXIT_NEGATIVE, UserError
from evolve.export.certify.bound import CONFIDENCE, SlowerCount
from evolve.export.evidence.harm import SLOWER
from evolve.reports.plain_text import plain
from evolve.run import configured_cases, log_sealed_read, read_program, require_sandbox
from evolve.traffic import UNASKED, open_traffic

SHOWN = 12
SHAPES_FILE, REPORT_FILE, PICTURE_FILE = "shapes.jsonl", "confirm.json", "confirm.png"
TOKENS_FOLDER = "tokens"


def confirm_command(
    program: str,
    config_path: Path | None,
    sets: list[str],
    *,
    against: str | None,
    beside: str | None,
    output: Path | None,
    minutes: float | None,
    fresh: int | None,
    tokens: bool,
    as_json: bool,
) -> int:
    """Compare; exit code 0 when confirmed on the unseen shapes, 1 when not, 4 when the budget ended first.

    With `tokens`, whole decode steps are compared afterwards, and a program that makes them slower is not confirmed.
    """
    config = load_config(asset(str(config_path or DEFAULT_CONFIG)), sets)
    runs_dir = Path(config.runs_dir)
    source = read_program(program, runs_dir)
    candidate = named_program(source, program)
    baseline = None if against is None else named_program(read_program(against, runs_dir), against)
    further = None if beside is None else named_program(read_program(beside, runs_dir), beside)
    require_sandbox()
    if find_spec("scipy") is None:
        raise UserError("scipy is missing", hint="pip install 'evosplit[gpu]'", exit_code=EXIT_MISSING)
    setting = _setting(config)
    # Launches are measured alike, whatever `schedule` was told.
    told = with_live_lengths(setting) if config.judge.live_lengths else setting
    if tokens and told.live_lengths:
        raise UserError("--tokens replays captured steps, where schedule knows no live length",
                        hint="leave out --tokens, or judge.live_lengths")  # fmt: skip
    traffic = config.traffic or UNASKED
    shard = token_shard(traffic.model, traffic.tp, setting) if tokens else None
    folder = report_folder(output, program)
    from evaluators.measure import worker_client

    worker = worker_client.open_worker()
    atexit.register(worker.close)
    seed = secrets.randbits(32)
    device, build = worker.open(setting, seed=seed)
    if tokens:
        require_step_packages()
    target = target_of(setting)
    gpu = Gpu(device.num_sms, device.l2_bytes, target.live_sm_margin)
    limits = Limits(config.sandbox.time_s, config.sandbox.memory_mb)

    def decide(cases: Sequence[Case]) -> list[Sequence[AnyDecision]]:
        stock = [target.spelled_out(c.shape, setting, target.baseline(setting), gpu) for c in cases]
        asked = [(str(against), baseline), (program, candidate)] + ([(str(beside), further)] if further else [])
        return [
            decisions_of(p, cases, told, gpu, limits, name=name, option="--set judge.setting=") if p else stock
            for name, p in asked
        ]

    lengths = {"live_lengths": "true"} if told.live_lengths else {}
    description = {"workload": config.judge.workload, "setting": setting.name, "verb": "confirm", "gpu": device.uuid}
    log_sealed_read(program, source, {**description, **lengths})
    rng = Random(seed)
    suite = build_suite(
        config.judge.workload, setting, config.judge.weighting, gpu, decide, rng, fresh=fresh,
        cases=configured_cases(config, setting, open_traffic(config)),
    )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}") from error
    head = {
        "program": program,
        "program_sha256": hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
        "against": against or STOCK,
        **({"beside": beside} if beside else {}),
        "workload": config.judge.workload,
        "setting": setting.name,
        **lengths,
        "weighting": config.judge.weighting.value,
        "build": build,
        "device": device.as_dict(),
        "seed": seed,
        "looks": list(pairing.LOOKS),
        "alpha_per_look": pairing.LOOK_ALPHA,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    kept_at_stop(f"verdicts so far stay in {folder}; a further call begins anew, in another folder")
    found = _measure(suite, worker, rng, folder, head, minutes)
    verdict = judge_suite(found, config.judge.weighting)
    report = {**head, **report_of(found, verdict, left=len(suite) - len(found), beside=beside is not None)}
    (folder / REPORT_FILE).write_text(compact_json(report), encoding="utf-8")
    from evolve.reports.confirmation import draw_confirmation

    draw_confirmation(folder / PICTURE_FILE, found, title=f"{program} against {report['against']}, {setting.name}")
    if not as_json:
        _print(report, found, verdict, device, folder)
    steps: TokenReport | None = None
    if shard is not None:
        worker.close()  # releases the GPU
        cases = token_cases(shard, setting)
        job = TokenJob(program, source, candidate, against or STOCK, baseline, shard, cases, setting)
        steps = measure_tokens(job, folder / TOKENS_FOLDER, minutes=minutes)
        report["tokens"] = steps[0]
    if as_json:
        emit(report)
    elif steps is not None:
        typer.echo("\ntime per output token")
        print_tokens(*steps, folder / TOKENS_FOLDER)
    if len(found) < len(suite) or (steps is not None and steps[0]["left"]):
        return EXIT_BUDGET
    slower = steps is not None and steps[2].verdict is Verdict.SLOWER
    return 0 if verdict.confirmed and not slower else EXIT_NEGATIVE


def _setting(config: RunConfig) -> Setting:
    """The setting of the configuration, if it can be measured live."""
    if config.judge.setting not in LIVE_SETTINGS:
        raise UserError(
            f"judge.setting: cannot measure {config.judge.setting!r}", hint=f"known: {', '.join(LIVE_SETTINGS)}"
        )
    setting = LIVE_SETTINGS[config.judge.setting]
    if setting.cache is Cache.LAYER:
        raise UserError(
            f"judge.setting: confirm times calls by themselves, {setting.name} is for recordings in layers",
            hint="evosplit tpot compares whole steps; a setting that ends in cold compares calls",
        )
    return setting


def _measure(
    suite: Sequence[Subject], worker: Any, rng: Random, folder: Path, head: dict[str, Any], minutes: float | None
) -> list[ShapeVerdict]:
    """Compare shape by shape; each verdict is written to disk before the next shape starts."""
    todo = sum(not s.same_launch for s in suite)
    say(f"{len(suite)} shapes, {todo} of them with another launch; every verdict goes to {folder / SHAPES_FILE}")
    started, done = time.monotonic(), 0
    with (folder / SHAPES_FILE).open("w", encoding="utf-8") as log:
        log.write(json.dumps(head) + "\n")

        def keep(found: ShapeVerdict) -> None:
            nonlocal done
            log.write(json.dumps(shape_json(found)) + "\n")
            log.flush()
            done += not found.subject.same_launch
            if not found.subject.same_launch and done % 50 == 0:
                seconds = time.monotonic() - started
                say(f"  {done}/{todo}  {seconds:.0f} s, about {seconds / done * (todo - done):.0f} s left")

        deadline = None if minutes is None else started + 60 * minutes
        return confirm_shapes(suite, worker, rng, deadline=deadline, on_verdict=keep)


def interval_json(interval: Interval) -> dict[str, float]:
    """An interval as speed-ups: above 1 the candidate is faster."""
    names = ("speedup", "low", "high", "bootstrap_low", "bootstrap_high")
    values = (interval.mean, interval.low, interval.high, interval.boot_low, interval.boot_high)
    return {n: round(math.exp(v), 6) for n, v in zip(names, values, strict=True)}


def shape_json(found: ShapeVerdict) -> dict[str, Any]:
    """One shape's verdict as JSON."""
    subject, comparison = found.subject, found.comparison
    shape, target = subject.case.shape, target_of_decision(subject.candidate)
    row: dict[str, Any] = {
        "case": subject.case.id,
        "group": subject.group.value,
        "verdict": found.verdict.value,
        "same_launch": subject.same_launch,
        "shape": {
            "batch": shape.batch,
            "seqlen_k": shape.seqlen_k,
            "num_heads_q": shape.num_heads_q,
            "num_heads_kv": shape.num_heads_kv,
            "live_seqlens": list(shape.live_seqlens),
        },
        "baseline": target.cell_values(subject.baseline),
        "candidate": target.cell_values(subject.candidate),
        "trouble": found.trouble,
    }
    if found.beside is not None:
        row["beside"] = shape_json(found.beside)
    if comparison is not None:
        row |= {
            "interval": interval_json(comparison.interval) if comparison.interval else None,
            "baseline_us": round(comparison.baseline_us, 3),
            "candidate_us": round(comparison.candidate_us, 3),
            "blocks": comparison.blocks,
            "dropped": list(comparison.dropped),
        }
    return row


def report_of(found: Sequence[ShapeVerdict], verdict: SuiteVerdict, *, left: int, beside: bool) -> dict[str, Any]:
    """The verdicts as JSON."""
    return {
        "verdict": verdict.verdict.value,
        "confirmed": verdict.confirmed,
        "suite": interval_json(verdict.interval),
        "groups": {
            g.value: {
                "shapes": sum(v.subject.group is g for v in found),
                "same_launch": sum(v.subject.group is g and v.subject.same_launch for v in found),
                **{w.value: sum(v.subject.group is g and v.verdict is w for v in found) for w in Verdict},
                **interval_json(verdict.by_group[g]),
            }
            for g in Group
        },
        "wrong_outputs": verdict.wrong_outputs,
        "left": left,
        "losses": losses_json(found, beside=beside),
        "shapes": [shape_json(v) for v in found],
    }


def losses_json(found: Sequence[ShapeVerdict], *, beside: bool) -> dict[str, Any]:
    """Count of unseen shapes slower by more than 1%, and share of the third program's gain that is kept, by group.

    Counts follow the rules of a certificate: shapes without a reliable measurement count as slower and gain nothing.
    """
    told: dict[str, Any] = {}
    for group in UNSEEN:
        mine = [v for v in found if v.subject.group is group]
        if not mine:
            continue
        count, gain = _losses(mine)
        told[group.value] = {"slower": count.slower, "shapes": count.shapes, "bound": round(count.bound, 6)}
        if beside:
            # Where the candidate has the same launch, one measurement serves both.
            count, whole = _losses([v.beside or v for v in mine])
            kept = round(gain / whole, 4) if whole > 0 else None
            told[group.value] |= {"beside_slower": count.slower, "gain_kept": kept}
    return told


def _losses(found: Sequence[ShapeVerdict]) -> tuple[SlowerCount, float]:
    gains = [v.log_gain for v in found]
    slower = sum(g is None or g < -math.log1p(SLOWER) for g in gains)
    return SlowerCount(slower, len(gains)), math.fsum(g or 0.0 for g in gains)


def _print(
    report: dict[str, Any], found: Sequence[ShapeVerdict], verdict: SuiteVerdict, device: DeviceRecord, folder: Path
) -> None:
    s = report["suite"]
    typer.echo(
        f"\n{report['program']} against {report['against']} on {report['setting']} ({report['build']}, {device.name})\n"
    )
    counted = "".join(f"{w.value:>{len(w.value) + 2}}" for w in Verdict)
    typer.echo(f"{'':9}{'speed-up':>10}{'95% interval':>20}{counted}{'shapes':>8}")
    for name, g in report["groups"].items():
        if g["shapes"]:
            typer.echo(
                f"{name:9}{g['speedup']:9.4f}x{g['low']:12.4f}..{g['high']:.4f}"
                + "".join(f"{g[w.value]:{len(w.value) + 2}d}" for w in Verdict)
                + f"{g['shapes']:8d}"
            )
    slower = sorted((v for v in found if v.verdict is Verdict.SLOWER and v.comparison), key=_mean)
    if slower:
        typer.echo(f"\nslower: {len(slower)} shapes")
        for v in slower[:SHOWN]:
            c = v.comparison
            assert c is not None
            typer.echo(
                f"  {v.subject.case.id} ({v.subject.group.value}) {math.exp(_mean(v)):.3f}x, {c.baseline_us:.1f} -> "
                f"{c.candidate_us:.1f} us"
            )
        if len(slower) > SHOWN:
            typer.echo(f"  and {len(slower) - SHOWN} more, each {math.exp(_mean(slower[SHOWN])):.3f}x or better")
    troubles = Counter(v.trouble for v in found if v.trouble)
    for text, n in troubles.most_common(SHOWN):
        typer.echo(f"\n{n} shapes: {plain(text)}")
    for name, loss in report["losses"].items():
        text = f"{loss['slower']} of {loss['shapes']} {name} shapes are, or may be, slower by more than {SLOWER:.0%}"
        typer.echo(f"\n{text}: at most {loss['bound']:.2%} of such shapes at {CONFIDENCE:.0%} confidence")
        if "beside" in report:
            kept = "none" if loss["gain_kept"] is None else f"{loss['gain_kept']:.1%}"
            typer.echo(
                f"{kept} of the gain of {report['beside']} is kept there, which makes {loss['beside_slower']} slower"
            )
    unseen = sum(v.subject.group in UNSEEN for v in found)
    typer.echo(
        f"\nverdict    {verdict.verdict.value}: {s['speedup']:.4f}x ({s['low']:.4f} to {s['high']:.4f}) on {unseen} "
        f"shapes that no search has seen; {sum(v.verdict is Verdict.SLOWER for v in found)} of all "
        f"{len(found)} shapes are slower"
    )
    if verdict.verdict is Verdict.FASTER and verdict.slower_groups:
        typer.echo(f"           not confirmed: slower on the {' and '.join(verdict.slower_groups)} shapes as a group")
    if report["left"]:
        typer.echo(f"left       {report['left']} shapes when the minutes ended; the verdict rests on the others")
    typer.echo(f"report     {folder / REPORT_FILE}\npicture    {folder / PICTURE_FILE}")


def _mean(found: ShapeVerdict) -> float:
    comparison = found.comparison
    return comparison.interval.mean if comparison and comparison.interval else 0.0
