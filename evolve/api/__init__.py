"""Functions of `import evolve`, for notebooks and scripts; the command line is built on the same parts.

Tables are returned as pandas DataFrames; pandas is loaded when one is made.
"""

from evolve.api.programs import ProgramLike, decide, evaluate, export_bundle, export_engine, open_judge
from evolve.api.runs import Run, open_run, resume_search, run_search

__all__ = [
    "ProgramLike",
    "Run",
    "decide",
    "evaluate",
    "export_bundle",
    "export_engine",
    "open_judge",
    "open_run",
    "resume_search",
    "run_search",
]
