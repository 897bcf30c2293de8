"""`evosplit doctor`: a report of the parts that work on this machine, and the reasons for those that do not."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evaluators.data.contract import LIVE_SETTINGS
from evaluators.data.workloads import ALL_WORKLOADS
from evaluators.measure.providers import ProviderUnavailable, open_provider, provider_names
from evaluators.sandbox.sandbox import self_test
from evolve import __version__
from evolve.assets import asset
from evolve.cli.common import emit
from evolve.config import load_config
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposers.endpoint_check import EndpointReport, endpoint_reports
from evolve.reports.plain_text import plain

if TYPE_CHECKING:
    from evaluators.measure.device import TimingFitness


def _tables() -> list[str]:
    found = []
    for workload in ALL_WORKLOADS:
        for setting in LIVE_SETTINGS:
            try:
                asset(f"results/tables/{workload}/{setting}")
            except UserError:
                continue
            found.append(f"{workload}/{setting}")
    return found


def _provider(name: str) -> str:
    """Reason why a provider does not work; empty if it works."""
    try:
        open_provider(name)
    except ProviderUnavailable as error:
        return str(error)
    return ""


def _gpu() -> str:
    """Reason why this machine's GPU cannot be timed; empty if it can."""
    try:
        import torch

        from evaluators.measure.device import current_device, measuring_problem

        if not torch.cuda.is_available():
            return "torch sees no CUDA GPU"
        torch.empty(1, device="cuda")  # opens this process's context, so that it can be distinguished from others
        return measuring_problem(current_device().uuid)
    except (ImportError, RuntimeError) as error:
        return str(error).splitlines()[0]


def _fitness() -> TimingFitness | None:
    """State of this machine's GPU; None without a GPU or where its state cannot be read."""
    try:
        import torch

        from evaluators.measure.device import current_device, timing_fitness

        return timing_fitness(current_device().uuid) if torch.cuda.is_available() else None
    except (ImportError, RuntimeError):
        return None


def say_reports(reports: list[EndpointReport]) -> bool:
    """Print reports on model endpoints; returns True if all can be used."""
    for report in reports:
        typer.echo(f"endpoint   {plain(report.line())}")
    return not any(report.reason for report in reports)


def doctor_command(endpoint: Path | None, *, as_json: bool) -> int:
    """Print the report; exit code 3 if searches cannot run, or a model of the file `endpoint` is unreachable."""
    reports = endpoint_reports(load_config(asset(str(endpoint)), [])) if endpoint else []
    test = self_test()
    providers = {name: _provider(name) for name in provider_names()}
    gpu, state = _gpu(), _fitness()
    report: dict[str, Any] = {
        "evosplit": __version__,
        "python": platform.python_version(),
        "system": f"{sys.platform} {platform.machine()}",
        "sandbox": {"ok": test.ok, **test.mechanisms, "problems": list(test.problems)},
        "gpu": {
            "ok": not gpu,
            "reason": gpu,
            "facts": list(state.facts) if state else [],
            "doubts": list(state.doubts) if state else [],
            "fit": not gpu and state is not None and not state.doubts,
        },
        "providers": {name: {"ok": not why, "reason": why} for name, why in providers.items()},
        "tables": _tables(),
        "endpoints": [
            {"model": r.model, "base_url": r.base_url, "ok": not r.reason, "reason": r.reason, "changes": r.changes}
            for r in reports
        ],
    }
    if as_json:
        emit(report)
    else:
        typer.echo(f"evosplit {__version__}, Python {report['python']}, {report['system']}")
        holds = ", ".join(k for k, v in test.mechanisms.items() if v)
        typer.echo(f"sandbox    {'ok: ' + holds if test.ok else 'no: ' + '; '.join(test.problems)}")
        typer.echo(f"live GPU   {'ok' if not gpu else 'no: ' + gpu}")
        if state is not None:
            fit = "fit to be timed: " if not gpu and not state.doubts else ""
            typer.echo(f"           {fit}{', '.join(state.facts)}")
            for doubt in state.doubts:
                typer.echo(f"           latencies would be unlike those of others: {doubt}")
        for why in dict.fromkeys(providers.values()):
            names = ", ".join(name for name, own in providers.items() if own == why)
            typer.echo(f"provider   {names}: {'ok' if not why else 'no: ' + why}")
        for workload in dict.fromkeys(table.partition("/")[0] for table in report["tables"]):
            settings = [table.partition("/")[2] for table in report["tables"] if table.startswith(f"{workload}/")]
            typer.echo(f"tables     {workload}: {', '.join(settings)}")
        say_reports(reports)
    return 0 if test.ok and not any(r.reason for r in reports) else EXIT_MISSING
