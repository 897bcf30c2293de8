"""Verbs of the command line and their options; a module per verb does the work and is imported when it is called."""

from evolve.cli.verbs.machine import doctor, record, reproduce, simulate
from evolve.cli.verbs.programs import confirm, decide, evaluate, export, tpot
from evolve.cli.verbs.runs import diff, ls, queue_app, report, show, view
from evolve.cli.verbs.search import baselines, config_app, replay, run, sweep, tune

__all__ = [
    "baselines",
    "config_app",
    "confirm",
    "decide",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "ls",
    "queue_app",
    "record",
    "replay",
    "report",
    "reproduce",
    "run",
    "show",
    "simulate",
    "sweep",
    "tpot",
    "tune",
    "view",
]
