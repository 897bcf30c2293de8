"""`evosplit reproduce bsc`: repeats the reference paper's experiments on this machine's GPU."""

from __future__ import annotations

import atexit
import hashlib
import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from evaluators.confirm import bsc_paper, bsc_tokens
from evaluators.confirm.bsc_tokens import measure_tokens
from evaluators.confirm.confirm import decisions_of
from evaluators.data.contract import Cache, Gpu
from evaluators.data.folders import require_new_folder
from evaluators.data.workloads import Case, Split
from evaluators.fa3.actions import SM_MARGINS
from evaluators.language.gate import named_program
from evaluators.latencies.store import shape_key
from evaluators.measure.errors import MeasureError
from evaluators.sandbox.sandbox import Limits
from evolve.assets import read_text
from evolve.cli.common import compact_json, say
from evolve.cli.failures import kept_at_stop
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.reports.bsc_material import CHAMPION, COMPILED, PUBLISHED, STOCK, Material, grid_rows, peer_rows, to_csv
from evolve.reports.bsc_picture import draw_reproduction
from evolve.reports.bsc_report import PICTURE, markdown
from evolve.run import read_program, require_sandbox

PAPERS = ("bsc",)
DEFAULT_CHAMPION = "results/champions/fa3-metadata.py"
RAW, REPORT, GRID, PEERS = "measurements.json", "README.md", "grid.csv", "peers.csv"


def reproduce_command(
    paper: str, *, output: Path | None, champion: str | None, measured: Path | None, force: bool
) -> int:
    """Measure, or read measurements, and write the report."""
    if paper not in PAPERS:
        raise UserError(f"unknown paper {paper!r}", hint=f"known: {', '.join(PAPERS)}")
    if measured is not None and champion is not None:
        raise UserError("--from brings its own champion", hint="leave --champion out, or measure again")
    folder = output or Path("runs") / f"reproduce-{paper}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not (force and folder.is_dir()):
        require_new_folder(folder, or_else="--force replaces the report of a folder")
    raw = _read(measured) if measured is not None else _measure(champion or DEFAULT_CHAMPION)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Measurements first: a report can be written again from them.
        (folder / RAW).write_text(compact_json(raw), encoding="utf-8")
        kept_at_stop(f"the measurements are in {folder / RAW}: --from writes the report")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    material = Material.of(raw)
    (folder / GRID).write_text(to_csv(list(grid_rows(material))), encoding="utf-8")
    (folder / PEERS).write_text(to_csv(list(peer_rows(material))), encoding="utf-8")
    draw_reproduction(folder / PICTURE, material)
    (folder / REPORT).write_text(markdown(material), encoding="utf-8")
    typer.echo(
        f"report     {folder / REPORT}\npicture    {folder / PICTURE}\ntables     {folder / GRID}, {folder / PEERS}"
    )
    if raw["lost"]:
        typer.echo(f"{len(raw['lost'])} shapes could not be measured; the report lists them")
        return EXIT_NEGATIVE
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})", hint=f"expected a {RAW} of evosplit reproduce") from error
    missing = [k for k in ("rows", "policies", "device", "kernels") if not isinstance(raw, dict) or k not in raw]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}", hint=f"expected a {RAW} of evosplit reproduce")
    return raw


def _measure(champion: str) -> dict[str, Any]:
    from evaluators.measure import worker_client

    programs = {PUBLISHED: "seeds/bsc_published.py", COMPILED: "seeds/bsc_compiled.py", CHAMPION: champion}
    sources, digests = {}, {}
    for policy, name in programs.items():
        text = read_program(name)
        digests[policy] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        sources[policy] = named_program(text, name)
    require_sandbox()
    worker = worker_client.open_worker()
    atexit.register(worker.close)
    seed = secrets.randbits(32)
    where = bsc_paper.METADATA[Cache.COLD]
    device, _ = worker.open(where, seed=seed)
    gpu = Gpu(device.num_sms, device.l2_bytes, max(SM_MARGINS))
    shapes = bsc_paper.policy_shapes()
    cases = [Case(shape_key(s), s, Split.TRAIN) for s in shapes]
    policies = {}
    for policy, program in sources.items():
        decided = decisions_of(program, cases, where, gpu, Limits(), name=programs[policy], option="")
        policies[policy] = dict(zip(shapes, decided, strict=True))
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            say(f"  {done}/{total} shapes  {time.monotonic() - started:.0f} s")

    raw = bsc_paper.measure_all(worker, policies, gpu, seed=seed, on_progress=show)
    worker.close()  # releases the GPU
    say("  whole decode steps")
    try:
        raw["tokens"] = measure_tokens({p: policies[p] for p in (PUBLISHED, CHAMPION)}, seed=seed)
    except (MeasureError, ImportError) as error:  # earlier measurements still get their report
        raw["lost"].append({"setting": "whole decode steps", "shape": bsc_tokens.MODEL, "reason": str(error)})
    described: dict[str, Any] = {STOCK: {"program": "the library's own decision", "sha256": "", "decisions": {}}}
    described |= {
        p: {
            "program": programs[p],
            "sha256": digests[p],
            "decisions": {shape_key(s): asdict(d) for s, d in decided.items()},
        }
        for p, decided in policies.items()
    }
    return {"paper": bsc_paper.PAPER, "date": time.strftime("%Y-%m-%d"), "seed": seed, "policies": described, **raw}
