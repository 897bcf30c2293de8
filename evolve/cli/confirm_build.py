"""`evosplit confirm BUNDLE --provider BUILD`: decisions and speed of a patched build, compared with its bundle."""

from __future__ import annotations

import atexit
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from evaluators.confirm.build_decisions import Choice, Expected, read_choices
from evaluators.confirm.confirm import Group, ShapeVerdict, Subject, confirm_shapes
from evaluators.data.contract import Decision, Gpu, Setting
from evaluators.data.workloads import Split
from evaluators.measure import pairing
from evaluators.measure.pairing import Interval, Part, Verdict, suite_interval, suite_verdict
from evaluators.measure.worker_client import GpuWorker
from evolve.cli.common import compact_json, emit, report_folder, result_printer, say
from evolve.cli.confirm import SHAPES_FILE, SHOWN, interval_json, shape_json
from evolve.cli.failures import kept_at_stop
from evolve.errors import EXIT_BUDGET, EXIT_MISSING, EXIT_NEGATIVE, UserError
from evolve.export.bundle.table import read_bundle
from evolve.reports.plain_text import plain
from evolve.run import log_sealed_read

REPORT_FILE, CHOICES_FILE = "confirm-build.json", "choices.jsonl"


def confirm_build_command(name: str, library: str, other: Mapping[str, object], *, output: Path | None,
                          minutes: float | None, as_json: bool) -> int:  # fmt: skip
    """Read the build's own decisions and time them; exit code 0 if they match the bundle and no mode is slower."""
    for option, value in other.items():
        if value:
            raise UserError(
                f"{option} does not go with --provider", hint="the bundle says which shapes, and stock is compared with"
            )
    gpu = Gpu()
    bundle = read_bundle(Path(name), gpu)
    if find_spec("scipy") is None:
        raise UserError("scipy is missing", hint="pip install 'evosplit[gpu]'", exit_code=EXIT_MISSING)
    folder = report_folder(output, f"{bundle.target.name}-build")
    from evaluators.measure import worker_client

    worker = worker_client.open_worker(library)
    atexit.register(worker.close)
    seed = secrets.randbits(32)
    first = next(iter(bundle.rows))
    device, build = worker.open(first, seed=seed)
    if device.num_sms != gpu.num_sms:
        raise UserError(
            f"the bundle's table is for {gpu.num_sms} SMs, this GPU ({device.name}) has {device.num_sms}",
            hint="an H100 SXM or H200",
        )
    if bundle.card not in ("", device.name):
        raise UserError(
            f"the bundle's patch decides on {bundle.card}, this GPU is {device.name}: a build decides as stock here",
            hint="export --everywhere leaves the GPU out of the condition, and all that was not measured with it",
        )
    description = {"bundle": name, "program": bundle.program_sha256, "verb": "confirm", "gpu": device.uuid}
    log_sealed_read(name, bundle.program_sha256, description)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}") from error
    head = {
        "bundle": name, "target": bundle.target.name, "program_sha256": bundle.program_sha256, "provider": library,
        "build": build, "device": device.as_dict(), "seed": seed, "looks": list(pairing.LOOKS),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip
    kept_at_stop(f"verdicts so far stay in {folder}; a further call begins anew, in another folder")
    say(f"{library}: {build}, {device.name}")
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    settings, left = {}, 0
    tell = result_printer(as_json=as_json)
    with (
        (folder / CHOICES_FILE).open("w", encoding="utf-8") as choices,
        (folder / SHAPES_FILE).open("w", encoding="utf-8") as shapes,
    ):
        for setting, table in bundle.rows.items():
            if setting is not first:
                worker.open(setting, seed=seed)
            read = read_choices(worker, table, gpu, on_choice=lambda c: _log(choices, choice_json(c)))
            _print_choices(setting, read, gpu, tell)
            timed, missed = _time(worker, setting, read, gpu, Random(seed), deadline, shapes)
            left += missed
            settings[setting.name] = setting_json(read, timed, gpu)
            _print_times(timed, settings[setting.name], missed, tell)
    report = {**head, **verdict_json(settings, left)}
    (folder / REPORT_FILE).write_text(compact_json(report), encoding="utf-8")
    if as_json:
        emit(report)
    else:
        tell(f"verdict    {report['verdict']}\nreport     {folder / REPORT_FILE}")
    if left:
        return EXIT_BUDGET
    return 0 if report["confirmed"] else EXIT_NEGATIVE


def _log(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def _time(worker: GpuWorker, setting: Setting, read: Sequence[Choice], gpu: Gpu, rng: Random, deadline: float | None,
          log: Any) -> tuple[list[ShapeVerdict], int]:  # fmt: skip
    """Time stock against the build's own decision where the launch should change and the reading matches the table."""
    todo = [c.expected for c in read if c.agrees and not c.writes_out_of_bounds and c.expected.changes(gpu)]
    subjects = [_subject(row) for row in todo]
    rng.shuffle(subjects)
    found = confirm_shapes(
        subjects, worker, rng, deadline=deadline,
        on_verdict=lambda v: _log(log, {"setting": setting.name, **shape_json(v)}),
    )  # fmt: skip
    return found, len(subjects) - len(found)


def _subject(row: Expected) -> Subject:
    # Explicit splits of stock's own formula keep arm A at stock where the patch changed that formula.
    group = Group.SEALED if row.case.split is Split.TEST else Group.CHANGED
    return Subject(row.case, group, row.stock, Decision(row.asked), same_launch=False)


def choice_json(choice: Choice) -> dict[str, Any]:
    """One reading as JSON."""
    row = choice.expected
    return {
        "workload": row.workload, "setting": row.setting.name, "case": row.case.id, "asked": row.asked,
        "num_splits": choice.num_splits, "live_splits": list(choice.live_splits),
        "table_num_splits": row.chosen.num_splits, "agrees": choice.agrees, "stock": choice.stock,
        "trouble": choice.trouble,
    }  # fmt: skip


def setting_json(read: Sequence[Choice], timed: Sequence[ShapeVerdict], gpu: Gpu) -> dict[str, Any]:
    """Findings in one setting, as JSON."""
    counted = [v for v in timed if v.comparison is not None]
    interval: Interval = suite_interval([Part(1.0, v.comparison.log_ratios) for v in counted if v.comparison])
    changed = [c for c in read if c.expected.changes(gpu)]
    return {
        "read": len(read),
        "agree": sum(c.agrees for c in read),
        "changed": len(changed),
        "changed_agree": sum(c.agrees for c in changed),
        "changed_as_stock": sum(c.stock for c in changed),
        "unread": sum(bool(c.trouble) for c in read),
        "out_of_bounds": sum(c.writes_out_of_bounds for c in read),
        "differ": [choice_json(c) for c in read if not c.agrees][:SHOWN],
        "timed": len(timed),
        "verdict": suite_verdict(interval).value if counted else Verdict.SAME.value,
        **interval_json(interval),
        **{w.value: sum(v.verdict is w for v in timed) for w in Verdict},
        "wrong_outputs": sum(v.wrong_output for v in timed),
    }


def verdict_json(settings: dict[str, dict[str, Any]], left: int) -> dict[str, Any]:
    """Verdict over all settings: first the build's decisions, then its speed."""
    found = list(settings.values())
    differ = sum(s["read"] - s["agree"] for s in found)
    changed, as_stock = sum(s["changed"] for s in found), sum(s["changed_as_stock"] for s in found)
    slower = [n for n, s in settings.items() if s["verdict"] not in (Verdict.FASTER.value, Verdict.SAME.value)]
    if changed and as_stock == changed:
        text = f"on all {changed} shapes whose launch should change this build decides as stock: is the patch built in?"
    elif differ:
        text = f"{differ} of {sum(s['read'] for s in found)} decisions are not the bundle's"
    elif sum(s["wrong_outputs"] for s in found):
        text = f"{sum(s['wrong_outputs'] for s in found)} shapes with a wrong output"
    elif slower:
        text = f"the build decides as the bundle says, and is slower, or cannot be judged, in {', '.join(slower)}"
    else:
        everywhere = f"on all {sum(s['read'] for s in found)} shapes"
        text = f"the build decides as the bundle says {everywhere}, and is slower in no mode as a whole"
    wrong = sum(s["wrong_outputs"] + s["out_of_bounds"] for s in found)
    return {
        "verdict": text,
        "confirmed": not differ and not wrong and not slower and not left,
        "left": left,
        "settings": settings,
    }


def _print_choices(setting: Setting, read: Sequence[Choice], gpu: Gpu, tell: Callable[[str], None]) -> None:
    changed = [c for c in read if c.expected.changes(gpu)]
    tell(
        f"{setting.name}: {sum(c.agrees for c in read)} of {len(read)} decisions read back are the bundle's, "
        f"{sum(c.agrees for c in changed)} of {len(changed)} where the launch changes"
    )
    for c in [c for c in read if not c.agrees][:SHOWN]:
        row = c.expected
        live = f", live {list(c.live_splits)[:8]}" if c.live_splits else ""
        tell(
            f"  {row.case.id}: {plain(c.trouble)}" if c.trouble else
            f"  {row.case.id}: num_splits {c.num_splits}{live}; the bundle says {row.launch(gpu).key}"
        )  # fmt: skip


def _print_times(
    timed: Sequence[ShapeVerdict], found: dict[str, Any], missed: int, tell: Callable[[str], None]
) -> None:
    if timed:
        counted = ", ".join(f"{found[w.value]} {w.value}" for w in Verdict)
        tell(
            f"  timed {len(timed)} changed shapes against stock: {found['speedup']:.4f}x ({found['low']:.4f} to "
            f"{found['high']:.4f}); {counted}"
        )
    slower = [v for v in timed if v.verdict is Verdict.SLOWER and v.comparison and v.comparison.interval]
    for v in sorted(slower, key=lambda v: v.comparison.interval.mean if v.comparison and v.comparison.interval else 0)[
        :SHOWN
    ]:
        c = v.comparison
        assert c is not None and c.interval is not None
        tell(
            f"    {v.subject.case.id} {math.exp(c.interval.mean):.3f}x, {c.baseline_us:.1f} -> {c.candidate_us:.1f} us"
        )
    if missed:
        tell(f"  left {missed} shapes when the minutes ended")
