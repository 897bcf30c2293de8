"""The page: front end and documents in one file for disks, or without documents for the live server.

The front end consists of plain JavaScript modules. They are concatenated into one inline script, each in its own scope,
so that a report needs no other file and the content-security policy can name the script's hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

VENDORED = {"uplot.js": "uPlot"}
"""Unchanged third-party scripts, and the name that each defines; static/VENDORED.md lists their origin."""

MODULES = (
    "dom.js",
    "state.js",
    "unpack.js",
    "source.js",
    "highlight.js",
    "diff.js",
    "diff_listing.js",
    "scales.js",
    "analysis.js",
    "pins.js",
    "uplot.js",
    "plot.js",
    "curve.js",
    "lineage_layout.js",
    "lineage_canvas.js",
    "expedition.js",
    "view_runs.js",
    "view_candidate.js",
    "lineage_beside.js",
    "overview_progress.js",
    "view_overview.js",
    "view_lineage.js",
    "view_table.js",
    "view_shapes.js",
    "view_grid.js",
    "view_compare.js",
    "main.js",
)
"""Modules in order of imports."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_HOLE = re.compile(r"\{\{(\w+)\}\}")


def static(name: str) -> str:
    """Read a front-end file."""
    return files("evolve.dashboard").joinpath("static", name).read_text(encoding="utf-8")


def _scoped(name: str) -> str:
    """Wrap a module as a function that imports from `modules` and adds its exports."""
    source = static(name)
    if name in VENDORED:
        return f'await (async () => {{\n{source}\nmodules["{name}"] = {{ {VENDORED[name]} }};\n}})();\n'
    exports = ", ".join(match[1] for match in _EXPORT.finditer(source))
    body = _EXPORT.sub("", _IMPORT.sub(r'const \1 = modules["\2"];\n', source))
    return f'await (async () => {{\n{body}\nmodules["{name}"] = {{ {exports} }};\n}})();\n'


def script() -> str:
    """All modules as one script."""
    return "\nconst modules = {};\n" + "\n".join(map(_scoped, MODULES))


def style() -> str:
    """All style sheets as one text."""
    return static("uplot.css") + "\n" + static("style.css")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(*, live: bool) -> str:
    """Content-security policy: only our script and style, by their hashes, and requests only to our server."""
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {_digest(script())}; style-src {_digest(style())}; "
        f"connect-src {connect}; img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def page(blocks: Mapping[str, str], *, live: bool) -> str:
    """Build the page.

    Args:
        blocks: data blocks by id, from `bundle.block`: base64, and so inert.
        live: True if documents come from a server instead.
    """
    data = "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blocks.items())
    holes = {
        "policy": policy(live=live),
        "mode": "live" if live else "report",
        "style": style(),
        "blocks": data,
        "script": script(),
    }
    # One pass: inserted text is not searched again.
    return _HOLE.sub(lambda hole: holes[hole[1]], static("page.html"))
