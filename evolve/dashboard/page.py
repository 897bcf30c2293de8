"""The page: front end and documents in one file that opens from disk, or without documents for the live server.

The front end is plain JavaScript modules. They are put one after the other into one inline script, each in a scope
of its own, so that a report needs no other file and the content-security policy can name its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

VENDORED = {"uplot.js": "uPlot"}
"""Scripts of others, as they were published, and the name that each defines; static/VENDORED.md says whose."""

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
    "view_overview.js",
    "view_lineage.js",
    "view_table.js",
    "view_shapes.js",
    "view_grid.js",
    "view_compare.js",
    "main.js",
)
"""Each after those that it imports."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_HOLE = re.compile(r"\{\{(\w+)\}\}")


def static(name: str) -> str:
    """Text of a front-end file."""
    return files("evolve.dashboard").joinpath("static", name).read_text(encoding="utf-8")


def _scoped(name: str) -> str:
    """A module as a function that imports from `modules` and leaves its exports there."""
    source = static(name)
    if name in VENDORED:
        return f'await (async () => {{\n{source}\nmodules["{name}"] = {{ {VENDORED[name]} }};\n}})();\n'
    exports = ", ".join(match[1] for match in _EXPORT.finditer(source))
    body = _EXPORT.sub("", _IMPORT.sub(r'const \1 = modules["\2"];\n', source))
    return f'await (async () => {{\n{body}\nmodules["{name}"] = {{ {exports} }};\n}})();\n'


def script() -> str:
    """All modules as one."""
    return "\nconst modules = {};\n" + "\n".join(map(_scoped, MODULES))


def style() -> str:
    """All style sheets as one."""
    return static("uplot.css") + "\n" + static("style.css")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(*, live: bool) -> str:
    """The content-security policy: our own script and style by their hashes, and no request but to our server."""
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {_digest(script())}; style-src {_digest(style())}; "
        f"connect-src {connect}; img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def page(blocks: Mapping[str, str], *, live: bool) -> str:
    """The page.

    Args:
        blocks: text of each data block by id, as `bundle.block` makes it: base64 alone, inert wherever it stands.
        live: whether documents come from a server instead.
    """
    data = "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blocks.items())
    holes = {
        "policy": policy(live=live),
        "mode": "live" if live else "report",
        "style": style(),
        "blocks": data,
        "script": script(),
    }
    # One pass: nothing that is put in is looked at again.
    return _HOLE.sub(lambda hole: holes[hole[1]], static("page.html"))
