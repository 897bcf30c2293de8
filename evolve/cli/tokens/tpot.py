"""`evosplit tpot`: time per output token with a program and with stock, as full decode steps on a live GPU."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from evaluators.confirm.confirm import decisions_of
from evaluators.data.contract import LIVE_SETTINGS, Cache, Gpu, Mode, Setting
from evaluators.data.launches import AnyDecision
from evaluators.data.models import read_model
from evaluators.data.workloads import Case, Split
from evaluators.language.gate import Program, named_program
from evaluators.measure.pairing import Verdict
from evaluators.sandbox.sandbox import Limits
from evaluators.targets.registry import target_of, target_of_decision
from evaluators.tokens import captures
from evaluators.tokens.captures import StepInterval
from evaluators.tokens.crew import check_gpus, opened_steps
from evaluators.tokens.predict import measured_model
from evaluators.tokens.shard import Shard, memory_needed, shard_of
from evaluators.tokens.suite import (
    StepSubject,
    StepSuite,
    StepVerdict,
    default_cases,
    judge_steps,
    measure_steps,
    step_subjects,
)
from evolve.cli.common import STOCK, compact_json, emit, report_folder, say
from evolve.cli.decide import read_shapes
from evolve.cli.failures import kept_at_stop
from evolve.errors import EXIT_BUDGET, EXIT_MISSING, EXIT_NEGATIVE, UserError
from evolve.run import read_program, require_sandbox

SHAPES_FILE, REPORT_FILE, STEPS_FILE = "steps.jsonl", "tpot.json", "steps.json"

TokenReport = tuple[dict[str, Any], list[StepVerdict], StepSuite]
"""The report as JSON, its shapes, and the verdict over them."""


@dataclass(frozen=True, slots=True)
class TokenJob:
    """Comparison of two programs by full decode steps.

    Attributes:
        program: name of the candidate.
        source: its text.
        candidate: parsed.
        against: name of the program that it is compared with.
        baseline: parsed; None for the stock decision.
        shard: one GPU's part of the model.
        cases: shapes with the shard's heads.
        setting: provider, mode and cache of the calls.
        gpus: GPUs that share the model; 1 measures one GPU's part alone.
    """

    program: str
    source: str
    candidate: Program
    against: str
    baseline: Program | None
    shard: Shard
    cases: Sequence[Case]
    setting: Setting
    gpus: int = 1


def tpot_command(
    program: str,
    model: str,
    tp: int,
    *,
    gpus: int,
    setting_name: str,
    shapes_path: Path | None,
    against: str | None,
    output: Path | None,
    minutes: float | None,
    runs_dir: Path,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Compare steps; exit code 0 if faster over all shapes together and wrong on none, 4 if time ran out."""
    if setting_name not in LIVE_SETTINGS:
        raise UserError(f"unknown setting {setting_name!r}", hint=f"known: {', '.join(LIVE_SETTINGS)}")
    setting = LIVE_SETTINGS[setting_name]
    if setting.cache is not Cache.COLD:
        raise UserError(
            f"--setting {setting_name}: the calls of a step run in its layers, whatever a setting says of the cache",
            hint=f"--setting {replace(setting, cache=Cache.COLD).name}",
        )
    if gpus not in (1, tp):
        raise UserError(
            f"--gpus {gpus} with --tp {tp}: several GPUs share a model of just as many parts",
            hint=f"--tp {gpus} --gpus {gpus}, or --gpus 1, where one GPU's part is measured without all-reduce",
        )
    shard = token_shard(model, tp, setting)
    cases = token_cases(shard, setting) if shapes_path is None else cases_of(shapes_path, setting, shard)
    source = read_program(program, runs_dir)
    candidate = named_program(source, program)
    baseline = None if against is None else named_program(read_program(against, runs_dir), against)
    require_sandbox()
    job = TokenJob(program, source, candidate, against or STOCK, baseline, shard, cases, setting, gpus)
    if dry_run:
        _subjects(job, Gpu())
        return _plan(shard, cases, setting, as_json=as_json)
    folder = report_folder(output, program)
    report, found, suite = measure_tokens(job, folder, minutes=minutes)
    if as_json:
        emit(report)
    else:
        print_tokens(report, found, suite, folder)
    if report["left"]:
        return EXIT_BUDGET
    return 0 if suite.verdict is Verdict.FASTER else EXIT_NEGATIVE


def token_shard(model: str, tp: int, setting: Setting) -> Shard:
    """One GPU's part of a model whose steps can be measured under a setting.

    Raises:
        UserError: the setting is not in bf16, or the model cannot be cut so.
    """
    if setting.dtype != "bf16":
        raise UserError(f"setting {setting.name}: whole steps are measured in bf16 alone")
    return shard_of(read_model(model), tp)


def token_cases(shard: Shard, setting: Setting) -> list[Case]:
    """Default shapes of the verb; static mode has no ragged ones."""
    return [c for c in default_cases(shard) if setting.mode is not Mode.STATIC or not c.ragged]


def require_step_packages() -> None:
    """Check that the packages of decode steps and their statistics are installed.

    Raises:
        UserError: one is missing.
    """
    for package in ("scipy", "triton"):
        if find_spec(package) is None:
            raise UserError(f"{package} is missing", hint="pip install 'evosplit[gpu,triton]'", exit_code=EXIT_MISSING)


def measure_tokens(job: TokenJob, folder: Path, *, minutes: float | None) -> TokenReport:
    """Compare full steps; each verdict is written to disk before the next shape starts."""
    from evaluators.measure.bench import GpuBench

    seed, setting, shard = secrets.randbits(32), job.setting, job.shard
    bench = GpuBench(setting, seed)
    require_step_packages()
    if job.gpus > 1:
        check_gpus(job.gpus)
    subjects = _subjects(job, bench.gpu)
    random.Random(seed).shuffle(subjects)  # if time runs out, a random sample is left, not the short shapes alone
    todo = [s.case.shape for s in subjects if not s.same_launch]
    opened = opened_steps(bench, shard, todo, seed=seed, gpus=job.gpus, on_death=_end)
    with opened as (compare, distinct_layers):
        head = {
            "program": job.program,
            "program_sha256": hashlib.sha256(job.source.encode("utf-8", "surrogatepass")).hexdigest(),
            "against": job.against,
            "shard": asdict(shard),
            "gpus": job.gpus,
            "distinct_layers": distinct_layers,
            "setting": setting.name,
            "build": bench.provider.build(),
            "device": bench.device.as_dict(),
            "seed": seed,
            "looks": list(captures.LOOKS),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        kept_at_stop(f"verdicts so far stay in {folder}; a further call begins anew, in another folder")
        say(f"{len(subjects)} shapes, {len(todo)} with another launch; every verdict goes to {folder / SHAPES_FILE}")
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        with (folder / SHAPES_FILE).open("w", encoding="utf-8") as log:
            log.write(json.dumps(head) + "\n")

            def keep(found: StepVerdict) -> None:
                log.write(json.dumps(step_json(found)) + "\n")
                log.flush()
                if not found.subject.same_launch:
                    say(_line(found))

            found = measure_steps(subjects, compare, deadline=deadline, on_verdict=keep)
    suite = judge_steps(found)
    report = {**head, **report_of(found, suite, left=len(subjects) - len(found))}
    (folder / REPORT_FILE).write_text(compact_json(report), encoding="utf-8")
    rests = [(v.subject.case.shape.batch, v.result.comparison.rest_us) for v in found if v.result is not None]
    if rests:
        steps_file = {**{k: head[k] for k in ("device", "setting")}, "steps": [measured_model(shard, rests).as_json()]}
        (folder / STEPS_FILE).write_text(json.dumps(steps_file, indent=1) + "\n", encoding="utf-8")
    return report, found, suite


def _subjects(job: TokenJob, card: Gpu) -> list[StepSubject]:
    """Shapes with the decisions of both programs.

    Raises:
        UserError: a program raised, timed out, or returned no decisions of the setting's kernel.
    """
    setting = job.setting
    target = target_of(setting)
    gpu = replace(card, max_sm_margin=target.live_sm_margin)
    mine = _decisions(job.program, job.candidate, job.cases, setting, gpu)
    theirs = (
        [target.spelled_out(c.shape, setting, target.baseline(setting), gpu) for c in job.cases]
        if job.baseline is None
        else _decisions(job.against, job.baseline, job.cases, setting, gpu)
    )
    return step_subjects(job.cases, theirs, mine, setting, gpu)


def _end(message: str) -> None:
    """End this process at once after another GPU failed: a kernel may wait for that GPU for ever."""
    typer.echo(f"error: {message}", err=True)
    os._exit(EXIT_MISSING)


def cases_of(path: Path, setting: Setting, shard: Shard) -> list[Case]:
    """Shapes of a CSV file as `decide --model` takes them: the model gives the heads, `--setting` the mode.

    Raises:
        UserError: a shape that changes the setting; the message names it.
    """
    cases = []
    for number, (shape, own) in enumerate(read_shapes(path, setting, [shard.heads]), start=1):
        if own != setting:
            raise UserError(f"{path}, shape {number}: mode, dtype and pages are those of --setting {setting.name}")
        cases.append(Case(f"s{number}-b{shape.batch}-k{shape.seqlen_k}", shape, Split.TEST))
    return cases


def _plan(shard: Shard, cases: Sequence[Case], setting: Setting, *, as_json: bool) -> int:
    """Print the shapes to measure and the memory that each takes on an H100."""
    rows = [
        {"case": c.id, "batch": c.shape.batch, "seqlen_k": c.shape.seqlen_k,
         "gib": round(memory_needed(shard, c.shape, setting, Gpu()) / 2**30, 1)}
        for c in cases
    ]  # fmt: skip
    if as_json:
        emit({"shard": asdict(shard), "weight_gib": round(shard.weight_bytes / 2**30, 1), "shapes": rows})
        return 0
    typer.echo(f"{shard.name}: {shard.layers} layers, {shard.weight_bytes / 2**30:.1f} GiB of weights on this GPU")
    for row in rows:
        typer.echo(f"  {row['case']:24} at least {row['gib']:6.1f} GiB")
    return 0


def _decisions(name: str, program: Program, cases: Sequence[Case], setting: Setting, gpu: Gpu) -> list[AnyDecision]:
    return decisions_of(program, cases, setting, gpu, Limits(), name=name, option="--setting ")


def interval_json(interval: StepInterval) -> dict[str, float]:
    """An interval as ratios of steps: above 1 the program's tokens are faster."""
    named = (("token_speedup", interval.mean), ("low", interval.low), ("high", interval.high))
    return {name: round(math.exp(value), 6) for name, value in named}


def step_json(found: StepVerdict) -> dict[str, Any]:
    """One shape's verdict as JSON."""
    subject, result = found.subject, found.result
    target = target_of_decision(subject.program)
    row: dict[str, Any] = {
        "case": subject.case.id,
        "verdict": found.verdict.value,
        "same_launch": subject.same_launch,
        "shape": subject.case.shape.as_json(),
        "baseline": target.cell_values(subject.baseline),
        "candidate": target.cell_values(subject.program),
        "trouble": found.trouble,
    }
    if result is not None:
        c = result.comparison
        row |= {
            **interval_json(c.interval),
            "captures": c.captures,
            "capture_sd": round(c.capture_sd, 6),
            "baseline_us": round(c.baseline_us, 2),
            "candidate_us": round(c.program_us, 2),
            "rest_us": round(c.rest_us, 2),
            "attention_share": round(c.attention_share, 4),
            "slowed": result.slowed,
        }
    return row


def report_of(found: Sequence[StepVerdict], suite: StepSuite, *, left: int) -> dict[str, Any]:
    """The verdicts as JSON."""
    return {
        "verdict": suite.verdict.value,
        "suite": interval_json(suite.interval),
        "shapes_counted": suite.shapes,
        **{verdict.value: sum(v.verdict is verdict for v in found) for verdict in Verdict},
        "wrong_outputs": suite.wrong_outputs,
        "left": left,
        "shapes": [step_json(v) for v in found],
    }


def _line(found: StepVerdict) -> str:
    case, result = found.subject.case, found.result
    if result is None:
        return f"  {case.id:24} {found.trouble or 'same launch'}"
    c = result.comparison
    low, high = math.exp(c.interval.low), math.exp(c.interval.high)
    return (
        f"  {case.id:24} token {c.token_speedup:.4f}x ({low:.4f} to {high:.4f}) {found.verdict.value:10} "
        f"step {c.baseline_us:8.1f} us, attention {100 * c.attention_share:4.1f}%{' SLOWED' if result.slowed else ''}"
    )


def print_tokens(report: dict[str, Any], found: Sequence[StepVerdict], suite: StepSuite, folder: Path) -> None:
    """Print the shapes and the verdict over them."""
    typer.echo(f"{report['program']} against {report['against']}: one decode step of {report['shard']['model']} at "
               f"TP {report['shard']['tp']}, {report['setting']}, {report['device']['name']}\n")  # fmt: skip
    for verdict in sorted(found, key=lambda v: v.subject.case.id):
        typer.echo(_line(verdict))
    s = report["suite"]
    typer.echo(
        f"\nverdict    {suite.verdict.value}: token {s['token_speedup']:.4f}x ({s['low']:.4f} to {s['high']:.4f}) over "
        f"{suite.shapes} shapes, {report['slower']} of them slower, {report['faster']} faster"
    )
    spread = sorted(v.result.comparison.capture_sd for v in found if v.result)
    if spread:
        typer.echo(f"A/A        captures of one arm scatter by {100 * spread[len(spread) // 2]:.2f}% (median shape), "
                   f"{100 * spread[-1]:.2f}% at most")  # fmt: skip
    if report["gpus"] > 1:
        typer.echo(
            f"           on {report['gpus']} GPUs, activations summed by NCCL in the graph; the slowest GPU counts"
        )
    elif report["shard"]["tp"] > 1:
        typer.echo("           without all-reduce: a real step is longer, and the gain a little smaller")
    if report["left"]:
        typer.echo(f"left       {report['left']} shapes when the minutes ended")
    typer.echo(f"report     {folder / REPORT_FILE}")
