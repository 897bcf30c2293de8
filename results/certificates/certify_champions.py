"""Curves of gain kept against margin for the champions, and what their confirmations certify as they are.

    python results/certificates/certify_champions.py

No GPU: recorded tables and results/confirm. Writes a CSV and a picture per champion, and confirmed.csv, beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.language.gate import parse_program
from evolve.assets import read_text
from evolve.export.certify.bound import SlowerCount
from evolve.export.certify.certificate import certify
from evolve.export.certify.curve import certificate_csv, certificate_png
from evolve.export.evidence.evidence import recorded_tables
from evolve.export.evidence.harm import SLOWER
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import TARGETS

HERE = Path(__file__).parent
RESULTS = HERE.parent
CHAMPIONS = (
    ("fa3-static", "fa3", False, 0.03), ("fa3-metadata", "fa3", True, 0.01), ("fa3-metadata", "python", True, 0.01),
    ("vllm-metadata", "fa3-vllm", True, 0.02),
)  # fmt: skip
"""Program, target, whether it decides in metadata mode, share that is asked for; counted on recorded sealed shapes."""

LIVE = (
    ("fa3-static-guarded", "fa3", False, 0.005, ("fa3-static-guarded",)),
    ("fa3-metadata-even", "fa3-whole", True, 0.005, ("fa3-metadata-even",)),
)  # fmt: skip
"""The same for guarded programs, with the confirmations whose unseen shapes count."""


def main() -> None:
    """Write all files."""
    for champion, target_name, varlen, share in CHAMPIONS:
        program = parse_program((RESULTS / "champions" / f"{champion}.py").read_text(encoding="utf-8"))
        target = TARGETS[target_name]
        tables = recorded_tables(target, RESULTS / "tables")
        found = certify(program, target, tables, Gpu(), Domain(varlen=varlen), share)
        name = f"{champion}-{target_name}"
        (HERE / f"{name}.csv").write_text(certificate_csv(found), encoding="utf-8")
        (HERE / f"{name}.png").write_bytes(certificate_png(found))
        print(f"{name}: {'' if found.holds else 'not '}certified below {share:.2%}: {found.words}")
    for program_name, target_name, varlen, share, reports in LIVE:
        program = parse_program((HERE / f"{program_name}.py").read_text(encoding="utf-8"))
        target = TARGETS[target_name]
        files = [RESULTS / "confirm" / r / "confirm.json.gz" for r in reports]
        tables = recorded_tables(target, RESULTS / "tables")
        found = certify(program, target, tables, Gpu(), Domain(varlen=varlen), share, reports=files)
        name = f"{program_name}-{target_name}-{len(reports)}"
        (HERE / f"{name}.csv").write_text(certificate_csv(found), encoding="utf-8")
        (HERE / f"{name}.png").write_bytes(certificate_png(found))
        print(f"{name}: {'' if found.holds else 'not '}certified below {share:.2%}: {found.words}")
    lines = ["champion,unseen_shapes,slower,unreliable,bound,bound_unreliable_as_slower"]
    for champion in (
        "fa3-static", "fa3-metadata", "vllm-metadata", "fa3-static-fresh", "fa3-metadata-fresh", "fa3-static-guarded",
        "fa3-metadata-even", "vllm-metadata-abstains",
    ):  # fmt: skip
        report = json.loads(read_text(RESULTS / "confirm" / champion / "confirm.json.gz"))
        unseen = [s for s in report["shapes"] if s["group"] in ("sealed", "fresh")]
        unreliable = sum(s["verdict"] == "unreliable" for s in unseen)
        slower = sum(
            s["verdict"] != "unreliable" and bool(s.get("interval")) and s["interval"]["speedup"] < 1 / (1 + SLOWER)
            for s in unseen
        )
        bounds = [SlowerCount(k, len(unseen)).bound for k in (slower, slower + unreliable)]
        lines.append(f"{champion},{len(unseen)},{slower},{unreliable},{bounds[0]:.4f},{bounds[1]:.4f}")
    (HERE / "confirmed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
