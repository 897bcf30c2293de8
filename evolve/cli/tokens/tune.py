"""`evosplit tune`: from a serving trace to a certified rule in one command, with its predicted gain in tokens.

Trace, simulated server, weights of recorded shapes, search, certificate, export: each step is also a verb or a
configuration key of its own, and can be repeated by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from evaluators.data.folders import require_new_folder
from evaluators.data.status import Status
from evaluators.judge.judge import SEARCH_SPLITS, Judge
from evolve.assets import asset
from evolve.cli.common import emit, say
from evolve.cli.failures import kept_at_stop
from evolve.cli.run import search
from evolve.cli.tokens.predicted import predictions, token_lines, tokens_json
from evolve.config import RunConfig, load_config
from evolve.errors import EXIT_BUDGET, EXIT_NEGATIVE, UserError
from evolve.export.bundle.export import WrittenBundle, check_certify, export_program, read_winner
from evolve.export.certify.curve import curve_lines
from evolve.export.targets.targets import EngineTarget, TargetKind, target_named
from evolve.run import run_search, start_run
from evolve.traffic import OpenedTraffic, open_traffic

BASE = "configs/tokens-chat.yaml"


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Options of `evosplit tune`.

    Attributes:
        trace: file of requests.
        model: name, or a config.json.
        tp: tensor parallel degree.
        config: YAML file instead of `BASE`; its trace, model and tp are replaced.
        source: checkout of the target; None for the module that stands alone.
        certify: largest share of shapes that may become slower.
        output: new folder of the bundle; None makes one beside the run.
    """

    trace: Path
    model: str
    tp: int
    config: Path | None
    sets: list[str]
    proposals: int | None
    target: str
    source: Path | None
    certify: float
    output: Path | None


def tune_command(options: TuneOptions, *, as_json: bool) -> int:
    """Search, certify, export; exit code 1 if no rule could be certified, or that of a search that stopped."""
    config = tuned_config(options)
    if options.target in list(EngineTarget):
        raise UserError(
            f"tune certifies launches of FA3, and {options.target} exports programs of the Triton kernel",
            hint="evosplit run configs/llama31-70b-triton-paged.yaml, then evosplit export RUN",
        )
    target = target_named(options.target)
    check_certify(target, options.certify)
    if (options.source is None) is (target.kind is not TargetKind.PYTHON):
        wanted = "--source names your checkout of it" if options.source is None else "the module stands alone"
        raise UserError(f"the target {target.name} {'needs' if options.source is None else 'takes no'} --source",
                        hint=wanted)  # fmt: skip
    if options.output is not None:
        require_new_folder(options.output)
    opened = open_traffic(config)
    assert opened is not None and opened.trace is not None
    run = start_run(config, on_event=say)
    if not isinstance(run.judge, Judge):
        raise UserError("tune weighs the shapes of one table", hint="judge.table names it")
    for line in traffic_lines(opened, run.judge):
        say(line)
    say()
    if as_json:  # the search's result becomes part of this verb's JSON
        code = EXIT_BUDGET if run_search(run).stopped_by else 0
    else:
        code = search(run, as_json=False)
    if code:
        return code
    output = options.output or run.folder / "bundle"
    text, origin = read_winner(str(run.folder), Path(config.runs_dir))
    kept_at_stop(f"the search is in {run.folder}; evosplit export {run.folder} exports its winner")
    say(f"\ncertifying and exporting the winner to {output} ...")
    bundle = export_program(
        run.folder.name, text, target.name, output, source=options.source, partial=True,
        certify_share=options.certify, run=origin, tell=say,
    )  # fmt: skip
    certificate = bundle.export.certificate
    assert certificate is not None
    judged = run.judge.evaluate(certificate.source)
    if judged.status is not Status.OK:
        raise UserError(f"the certified rule cannot be scored: {judged.message}", exit_code=EXIT_NEGATIVE)
    found = predictions(config, run.judge, judged)
    if as_json:
        emit(_json(opened, run.folder, bundle) | {"predicted_tokens": tokens_json(found)})
        return 0
    typer.echo("\nthe certified rule, which leaves to stock what it cannot vouch for\n")
    for line in (*curve_lines(certificate), f"certified below {certificate.share:.2%}: {certificate.words}", ""):
        typer.echo(line)
    for line in token_lines(found):
        typer.echo(line)
    typer.echo(f"\nrun        {run.folder}\nbundle     {output}: {', '.join(bundle.files)}")
    typer.echo(f"measure    evosplit tpot {output}/program.py --model {options.model} --tp {options.tp}")
    return 0


def tuned_config(options: TuneOptions) -> RunConfig:
    """The configuration of the search; JSON is YAML, whatever a path holds."""
    read = asset(str(options.config or BASE))
    sets = [
        "name=tune",
        "judge.workload=trace",
        "judge.objective=tokens",
        f"traffic.trace={json.dumps(str(options.trace))}",
        f"traffic.model={json.dumps(options.model)}",
        f"traffic.tp={options.tp}",
        *options.sets,
    ]
    if options.proposals is not None:
        sets.append(f"search.proposals={options.proposals}")
    return load_config(read, sets)


def traffic_lines(opened: OpenedTraffic, judge: Judge) -> list[str]:
    """Lines about the simulated batches and their distance to the recorded shapes."""
    trace, traffic = opened.trace, opened.traffic
    assert trace is not None
    left_out = [f"{trace.empty} rows without prompt or answer"] if trace.empty else []
    left_out += [f"{traffic.refused} requests beyond the server's limits"] if traffic.refused else []
    lines = [
        f"trace      {len(trace.requests)} requests in {trace.span_s:.0f} s ({trace.format.value})"
        + (f"; left out: {' and '.join(left_out)}" if left_out else ""),
        f"simulated  {traffic.steps:,} decode steps, {traffic.tokens:,} tokens: a token shares its step with "
        f"{traffic.mean_batch:.1f} sequences and sees {traffic.mean_keys:.0f} keys; decoding takes "
        f"{100 * traffic.busy:.0f}% of the time",
    ]
    if traffic.cut_off:
        lines.append("           the simulation was cut off before the trace ended")
    if "measure" in judge.description:
        return lines
    for split in SEARCH_SPLITS:
        mapped = opened.mapped([c for c in judge.cases if c.split is split])
        lines.append(
            f"{split.value:10} {sum(w > 0 for w in mapped.weights.values())} recorded shapes represent "
            f"{len(traffic.batches)} sampled batches; the nearest is off by a factor of "
            f"{2**mapped.median_distance:.2f} in the median, beyond 2 for {100 * mapped.far_share:.0f}%"
        )
    return lines


def _json(opened: OpenedTraffic, folder: Path, bundle: WrittenBundle) -> dict[str, object]:
    traffic, certificate = opened.traffic, bundle.export.certificate
    assert certificate is not None
    return {
        "run": str(folder),
        "bundle": str(bundle.folder),
        "files": bundle.files,
        "traffic": {
            "steps": traffic.steps, "tokens": traffic.tokens, "refused": traffic.refused,
            "mean_batch": round(traffic.mean_batch, 3), "mean_keys": round(traffic.mean_keys, 1),
            "busy": round(traffic.busy, 4),
        },
        "certified_below": certificate.share,
        "certificate": certificate.words,
    }  # fmt: skip
