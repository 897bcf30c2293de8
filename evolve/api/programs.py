"""Programs for notebooks and scripts: scores, decisions for any shapes, exports.

A program is given as a path, RUN#ID, source text, or a function defined in the notebook.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import LIVE_SETTINGS, DecodeShape
from evaluators.data.evaluation import Evaluation
from evaluators.data.gpus import named_gpu
from evaluators.targets.registry import with_live_lengths
from evolve.api.runs import QUICKSTART, Run, configured
from evolve.assets import asset
from evolve.config import RunConfig
from evolve.decisions import decide_shapes
from evolve.errors import UserError
from evolve.export.bundle.export import WrittenBundle, export_program
from evolve.export.engine.export import EngineExport
from evolve.export.engine.export import export_engine as write_engine_export
from evolve.export.targets.targets import engine_target
from evolve.run import AnyJudge, evaluate_source, open_configured_judge, read_program

if TYPE_CHECKING:
    from pandas import DataFrame

ProgramLike = str | Path | Callable[..., Any]
"""A path, RUN#ID, source text, or a function."""


def open_judge(
    config: str | Path | RunConfig = QUICKSTART,
    overrides: Mapping[str, object] | None = None,
    *,
    tables: Sequence[str | Path] = (),
) -> AnyJudge:
    """Open the judge of a configuration: recorded tables, or this machine's GPU.

    Args:
        config: YAML file (also one that ships) or a loaded configuration.
        overrides: values by key, as with `--set`.
        tables: folders of recorded tables instead of the configuration's.

    Returns:
        A judge for `evaluate`. A live judge keeps its GPU until this process ends.

    Raises:
        UserError: a wrong configuration, no such table, or no sandbox here.

    Example:
        >>> judge = evolve.open_judge(overrides={"judge.weighting": "chat"})
        >>> judge.description["workload"]
        'llama31-70b'
        >>> live = evolve.open_judge("configs/llama31-70b-h100.yaml")  # doctest: +SKIP
    """
    loaded = configured(config, overrides)
    return open_configured_judge(loaded, tables=[asset(str(t)) for t in tables] or None)


def evaluate(program: ProgramLike, judge: AnyJudge | None = None) -> Evaluation:
    """Score a program on the training and holdout shapes, with the recheck that a search makes.

    Args:
        program: path, RUN#ID, source text, or a function `schedule(shape, gpu)`.
        judge: from `open_judge`; default: the quickstart's table.

    Returns:
        Status, scores by split, and feedback. A failing program raises nothing: the status gives the reason.

    Raises:
        UserError: the program cannot be read, or there is no sandbox here.

    Example:
        >>> judge = evolve.open_judge(overrides={"judge.workload": "bsc-160"})
        >>> evolve.evaluate("seeds/waves_metadata.py", judge).status
        <Status.OK: 'ok'>
    """
    return evaluate_source(judge or open_judge(), _source(program))


def decide(
    program: ProgramLike,
    shapes: Iterable[DecodeShape] | Iterable[Mapping[str, Any]] | DataFrame,
    setting: str = "fa3_fwd-metadata-cold",
    gpu: str = "h100",
    *,
    live_lengths: bool = False,
) -> DataFrame:
    """Decisions of a program and the kernel's launches, on any shapes.

    Args:
        program: path, RUN#ID, source text, or a function.
        shapes: `evaluators.DecodeShape`s, mappings of their fields, or a DataFrame with such columns.
        setting: provider, mode and cache, one of `evaluators.SETTINGS` or another that can be measured.
        gpu: name of a Hopper GPU, or its number of SMs.
        live_lengths: whether `schedule` is told the largest and the mean live length.

    Returns:
        One row per shape: its fields, the decision by name (of FA3 `num_splits`, 0 for its own choice, `pack_gqa`,
        `sm_margin`, `blocks_per_split`), `launched_num_splits`, `live_splits` (per sequence) and `workspace_bytes`.

    Raises:
        UserError: unknown setting, a wrong shape, or a program that fails.

    Example:
        >>> shape = evaluators.DecodeShape(batch=4, seqlen_k=8192, num_heads_q=8, num_heads_kv=1)
        >>> evolve.decide("seeds/waves_metadata.py", [shape]).launched_num_splits.tolist()
        [64]
    """
    import pandas as pd

    if setting not in LIVE_SETTINGS:
        raise UserError(f"unknown setting {setting!r}", hint=f"known: {', '.join(LIVE_SETTINGS)}")
    where = with_live_lengths(LIVE_SETTINGS[setting]) if live_lengths else LIVE_SETTINGS[setting]
    records: list[Any] = shapes.to_dict("records") if isinstance(shapes, pd.DataFrame) else list(shapes)
    found = decide_shapes(_source(program), [(_shape(record), where) for record in records], named_gpu(gpu))
    return pd.DataFrame(
        {
            **{k: v for k, v in row["shape"].items() if k != "live_seqlens"},
            **row["decision"],
            "launched_num_splits": row["launch"]["num_splits"],
            "live_splits": row["launch"]["live_splits"],
            "workspace_bytes": row["launch"]["workspace_bytes"],
        }
        for row in found
    )


def export_bundle(
    program: ProgramLike | Run,
    target: str,
    output: str | Path,
    *,
    source: str | Path | None = None,
    partial: bool = False,
    unmeasured: bool = False,
    everywhere: bool = False,
    distill: float | None = None,
    certify_share: float | None = None,
    certify_from: Sequence[str | Path] = (),
) -> WrittenBundle:
    """Write a bundle for a target: patch or module, proof and evidence; as `evosplit export`.

    Args:
        program: path, RUN#ID, source text, a function, or a run, whose winner is exported.
        target: `python`, `fa3`, `fa3-prepare`, ...; docs/export.md lists them.
        output: new or empty folder.
        source: checkout of the target; every target but `python` needs one.
        partial: leave out what the target cannot express.
        unmeasured: export to a kernel without recordings.
        everywhere: also decide calls that were not measured, on any GPU.
        distill: export the fewest rules that keep the mean log speed-up within this much.
        certify_share: leave classes of calls to stock until the share of slower shapes is certified below this.
        certify_from: `confirm.json` files whose unseen shapes certify it, instead of the recorded sealed ones.

    Returns:
        The written files. The bundle has scores on the sealed test shapes, which is logged (`evolve.run.sealed_log`).

    Raises:
        UserError: wrong arguments, a checkout that cannot be patched, or no C++ compiler.
        NotExpressible: the target cannot express the program.

    Example:
        >>> evolve.export_bundle(run, "python", "bundle").files  # doctest: +SKIP
    """
    name, text, origin = _named(program)
    return export_program(
        name,
        text,
        target,
        Path(output),
        source=None if source is None else Path(source),
        partial=partial,
        unmeasured=unmeasured,
        everywhere=everywhere,
        distill=distill,
        certify_share=certify_share,
        certify_from=[Path(f) for f in certify_from],
        run=origin,
    )


def export_engine(program: ProgramLike | Run, target: str, output: str | Path) -> EngineExport:
    """Write a program of the Triton decode kernel for a server; as `evosplit export` with such a target.

    Args:
        program: as in `export_bundle`.
        target: `vllm-plugin`, `sglang-plugin` or `triton-python`; see docs/plugins.md.
        output: new or empty folder.

    Returns:
        The written files, and the program's scores on recorded latencies.

    Raises:
        UserError: an unknown target, a folder that is not empty, or a program that the judge refuses.

    Example:
        >>> evolve.export_engine("seeds/triton_waves_paged.py", "vllm-plugin", "package").files  # doctest: +SKIP
    """
    name, text, origin = _named(program)
    return write_engine_export(name, text, engine_target(target), Path(output), run=origin)


def _named(program: ProgramLike | Run) -> tuple[str, str, dict[str, object]]:
    """Name, source and origin of a program."""
    if isinstance(program, Run):
        best = program.best
        if best is None:
            raise UserError(f"the run {program.folder} has no winner yet")
        return str(program.folder), best.source, {"run": program.folder.name, "proposal": best.id}
    name = str(program) if isinstance(program, Path) or not _is_source(program) else "schedule"
    return name, _source(program), {}


def _is_source(program: ProgramLike) -> bool:
    return callable(program) or (isinstance(program, str) and ("\n" in program or "def " in program))


def _source(program: ProgramLike) -> str:
    """Source of a program in any accepted form."""
    if callable(program):
        try:
            return textwrap.dedent(inspect.getsource(program))
        except (OSError, TypeError) as error:
            raise UserError(f"the source of {program!r} cannot be found", hint="give its text instead") from error
    if isinstance(program, str) and _is_source(program):
        return textwrap.dedent(program)
    return read_program(os.fspath(program))


def _shape(record: DecodeShape | Mapping[Any, Any]) -> DecodeShape:
    if isinstance(record, DecodeShape):
        return record
    try:
        return DecodeShape(**record)
    except (TypeError, ValueError) as error:
        raise UserError(f"not a decode shape: {dict(record)} ({error})", hint="see evaluators.DecodeShape") from error
