"""Writes a program of the Triton decode kernel for servers: one file, or a package that its engine finds by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from evaluators.data.folders import require_new_folder, whole_folder
from evolve import __version__
from evolve.assets import asset
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.engine.measured import MeasuredEffects, measured_effects
from evolve.export.engine.single_file import single_file
from evolve.export.evidence.answers import read
from evolve.export.targets.targets import EngineTarget

SINGLE_FILE = "triton_decode_evolved.py"
PLUGINS = {
    EngineTarget.VLLM_PLUGIN: ("kernels/vllm_plugin", "evosplit_vllm"),
    EngineTarget.SGLANG_PLUGIN: ("kernels/sglang_plugin", "evosplit_sglang"),
}
"""Source folder and name of an engine's package."""

SHARED = "kernels/server_plugin"
"""Files in the packages of all engines."""


@dataclass(frozen=True, slots=True)
class EngineExport:
    """A written export; `measured` scores the program on recorded latencies."""

    folder: Path
    files: list[str]
    measured: MeasuredEffects
    provenance: dict[str, object]


def export_engine(
    name: str, text: str, target: EngineTarget, output: Path, *, run: dict[str, object] | None = None
) -> EngineExport:
    """Write the export into a new or empty folder, all of it or nothing.

    Raises:
        UserError: the program is refused, or the folder holds something.
        SandboxUnavailable: this system cannot confine programs, which are judged here once more.
    """
    require_new_folder(output)
    program = read(text, name)
    digest = sha256(text.encode()).hexdigest()
    if program.uses_live_lengths and target in PLUGINS:
        raise UserError(
            f"schedule reads live lengths (judge.live_lengths), and {target.value} chooses a schedule before there are "
            "any: a captured graph holds it",
            hint="--target triton-python, for an engine that launches outside of CUDA graphs",
            exit_code=EXIT_NEGATIVE,
        )
    measured = measured_effects(text, paged_only=target in PLUGINS, live_lengths=program.uses_live_lengths)
    words = told(measured)
    gpus = tuple(dict.fromkeys(e.gpu for e in measured.effects))
    module = single_file(program, sha256=digest, version=__version__, measured=words, gpus=gpus)
    provenance: dict[str, object] = {
        "evosplit": __version__,
        "program": {"name": name, "sha256": digest, "normal_form": program.normal_form, **(run or {})},
        "target": target.value,
        "measured": measured.as_json(),
    }
    contents = {"program.py": text, "provenance.json": json.dumps(provenance, indent=1) + "\n"}
    if target is EngineTarget.TRITON_PYTHON:
        contents[SINGLE_FILE] = module
    else:
        folder, package = PLUGINS[target]
        source, shared = asset(folder), asset(SHARED)
        contents["pyproject.toml"] = (source / "pyproject.toml").read_text(encoding="utf-8")
        readme = (source / "README.md").read_text(encoding="utf-8")
        contents["README.md"] = readme.replace("@MEASURED@", words).replace("@SHA256@", digest)
        for path in (source / "__init__.py", source / "backend.py", shared / "domain.py", shared / "plans.py"):
            contents[f"{package}/{path.name}"] = path.read_text(encoding="utf-8")
        contents[f"{package}/decode.py"] = module
    _write(output, contents)
    return EngineExport(output, sorted(contents), measured, provenance)


def told(measured: MeasuredEffects) -> str:
    """Lines on the measurements, for a docstring or a README."""
    first = measured.effects[0]
    lines = [
        f"Recorded latencies of the kernel alone, {first.gpu}, bf16, head_dim 128, 8 query heads per KV head,",
        "batches of 1 to 64, up to 16,384 keys, L2 cold, against FlashAttention 3 deciding by itself:",
        "",
        *measured.lines(),
        "",
        "The schedule was decided there for caches no longer than the longest sequence. What reaches a token is less:",
        "docs/tpot-vllm.md of evosplit says how to measure it.",
    ]
    return "\n".join(lines)


def _write(folder: Path, contents: dict[str, str]) -> None:
    with whole_folder(folder) as whole:
        for file, text in contents.items():
            path = whole / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
