"""Verbs about one program: scores, verdicts on a GPU, tokens, decisions, exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import PROGRAM, Json, Model, OwnRunsDir, RunsDir, SeqlenQ, Sets, Tp, overrides, workload_of


def evaluate(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help=PROGRAM)],
    config: Annotated[Path | None, typer.Option("--config", help="What to judge on; default: the quickstart.")] = None,
    sets: Sets = None,
    tables: Annotated[list[str] | None, typer.Option("--table", help="Folder of a table; several: all.")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="Over several tables: worst or mean.")] = None,
    runs_dir: OwnRunsDir = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="Also score the sealed test shapes; logged.")] = False,
    json: Json = False,
) -> None:
    """Score one program on a recorded table, or on several at once."""
    import json as json_module

    from evolve.cli.evaluate import evaluate_command

    # JSON is YAML, whatever a path holds.
    sets = [
        *overrides(runs_dir, sets),
        *(["judge.table=null", f"judge.tables={json_module.dumps(tables)}"] if tables else []),
    ]
    raise typer.Exit(evaluate_command(program, config, sets, objective=objective, sealed=sealed, as_json=json))


def confirm(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help=PROGRAM)],
    config: Annotated[Path | None, typer.Option("--config", help="Workload, setting and weighting.")] = None,
    sets: Sets = None,
    against: Annotated[str | None, typer.Option("--against", help="Program instead of the stock decision.")] = None,
    beside: Annotated[
        str | None, typer.Option("--beside", help="Third program, also measured: what of its gain does PROGRAM keep?")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for report and picture.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0, help="Start no shape after this long; steps get as long again."),
    ] = None,
    fresh: Annotated[
        int | None,
        typer.Option(
            "--fresh",
            min=1,
            max=5000,
            metavar="N",
            help="Draw N new shapes: half uniform, half ragged; static mode has no ragged.",
        ),
    ] = None,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Then whole decode steps, as tpot measures them, of --set traffic.model=NAME --set traffic.tp=N "
            "[default: llama-3.1-70b, 8].",
        ),
    ] = False,
    provider: Annotated[
        str | None, typer.Option("--provider", help="PROGRAM is a bundle; its patched build: a library or a package.")
    ] = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Compare two programs on this machine's GPU, in paired blocks. Exit code 1 unless confirmed."""
    if provider is not None:
        from evolve.cli.confirm_build import confirm_build_command

        other = {"--config": config, "--set": sets, "--against": against, "--beside": beside, "--runs-dir": runs_dir,
                 "--fresh": fresh, "--tokens": tokens or None}  # fmt: skip
        raise typer.Exit(confirm_build_command(program, provider, other, output=output, minutes=minutes, as_json=json))
    from evolve.cli.confirm import confirm_command

    code = confirm_command(
        program,
        config,
        overrides(runs_dir, sets),
        against=against,
        beside=beside,
        output=output,
        minutes=minutes,
        fresh=fresh,
        tokens=tokens,
        as_json=json,
    )
    raise typer.Exit(code)


def tpot(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help=PROGRAM)],
    model: Annotated[str, typer.Option("--model", help="Well-known name, or a Hugging Face config.json.")],
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor parallel degree: one GPU's part is measured.")] = 1,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="GPUs of this machine that share the model: 1, or as many as --tp.")
    ] = 1,
    shapes: Annotated[
        Path | None, typer.Option("--shapes", help="CSV as decide takes it. [default: 1 to 32 x 256 to 8,192, ragged]")
    ] = None,
    setting: Annotated[str, typer.Option("--setting", help="Provider, mode, cache.")] = "fa3_fwd-metadata-cold",
    against: Annotated[str | None, typer.Option("--against", help="Program instead of the stock decision.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the report.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print shapes and memory, measure nothing.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Measure time per output token, stock against a program. Whole decode steps of a model's shard."""
    from evolve.cli.tokens.tpot import tpot_command

    raise typer.Exit(
        tpot_command(
            program, model, tp, gpus=gpus, setting_name=setting, shapes_path=shapes, against=against, output=output,
            minutes=minutes, runs_dir=runs_dir, dry_run=dry_run, as_json=json,
        )
    )  # fmt: skip


def decide(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help=PROGRAM)],
    shapes: Annotated[Path, typer.Option("--shapes", help="CSV: batch, seqlen_k, num_heads_q, num_heads_kv, ...")],
    setting: Annotated[str, typer.Option("--setting", help="Where a row names no mode.")] = "fa3_fwd-metadata-cold",
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
    gpu: Annotated[str, typer.Option("--gpu", help="h100, h100-pcie, h200, h800, h20, gh200, or SMs.")] = "h100",
    live_lengths: Annotated[
        bool, typer.Option("--live-lengths", help="Tell schedule the largest and the mean live length.")
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Show a heuristic's decisions and the launches, for any shape."""
    from evolve.cli.decide import decide_command

    kinds = workload_of(model, tp, seqlen_q)
    raise typer.Exit(
        decide_command(
            program, shapes, setting, runs_dir, kinds=kinds, gpu=gpu, live_lengths=live_lengths, as_json=json
        )
    )


def export(
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="Python file, RUN#ID, or a run's winner by its name.")
    ],
    target: Annotated[
        str,
        typer.Option("--target", help="fa3, fa3-prepare, fa3-vllm, vllm, fa4, python, vllm-plugin, sglang-plugin, ..."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the bundle.")],
    source: Annotated[Path | None, typer.Option("--source", help="Your checkout of the target.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what the target cannot express.")] = False,
    unmeasured: Annotated[bool, typer.Option("--unmeasured", help="Export to a kernel without recordings.")] = False,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Also decide unmeasured calls: prefill, windows, other GPUs, ...")
    ] = False,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            metavar="EPS",
            help="Export the fewest rules over the target's inputs that keep the mean log speed-up within EPS.",
        ),
    ] = None,
    certify: Annotated[
        float | None,
        typer.Option(
            "--certify",
            metavar="P",
            help="Leave classes of calls to stock until the share of shapes slower by more than 1% is below P with 95% "
            "confidence, counted on shapes that took no part in the choice.",
        ),
    ] = None,
    certify_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--certify-from", metavar="FILE", help="Count on the unseen shapes of a confirm.json; may be repeated."
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Write a proved patch for upstream, or a plugin for a server. The patch comes with its evidence."""
    from evolve.cli.export import export_command

    raise typer.Exit(
        export_command(
            program,
            target,
            source,
            output,
            runs_dir,
            partial=partial,
            unmeasured=unmeasured,
            everywhere=everywhere,
            distill=distill,
            certify=certify,
            certify_from=certify_from or (),
            as_json=json,
        )
    )
