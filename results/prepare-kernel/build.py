"""Builds the prepare kernel for sm_90a, stock and patched, with recorded calls to check it on; no GPU.

    python results/prepare-kernel/build.py --source ~/flash-attention -o build
    python results/prepare-kernel/build.py --target fa3-vllm-prepare --source ~/vllm-flash-attention -o build-vllm

Needs nvcc. The kernel is cut out of the tree and compiled with stand-ins for CUTLASS and CUB (kernels/prepare_shim.h);
`measure.py` runs what is built here on a Hopper GPU. The folder holds compiled FA3 and is not to be committed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import tempfile
from pathlib import Path

from evaluators.data.contract import Cache, Gpu, Mode
from evaluators.language.cpp.normalise import form_of
from evolve.export.bundle.plan import stock_form, with_stock_choice
from evolve.export.evidence.answers import ask, read
from evolve.export.evidence.evidence import Row, gather, recorded_tables
from evolve.export.patch.prepare import FILE, change_prepare
from evolve.export.patch.tree import open_tree
from evolve.export.proof.device_build import FLAGS, find_nvcc
from evolve.export.proof.prepare_run import PrepareBatch, batch_of, device_source, least_warps, random_batches
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import TARGETS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = {
    "fa3-prepare": {
        "fa3-metadata": ROOT / "results/champions/fa3-metadata.py",
        "fa3-metadata-even": ROOT / "results/certificates/fa3-metadata-even.py",
        "fa3-metadata-32": HERE / "fa3-metadata-32.py",
        "waves-metadata": ROOT / "seeds/waves_metadata.py",
        "fa3-metadata-evolved": ROOT / "results/champions/fa3-metadata-evolved.py",
    },
    "fa3-vllm-prepare": {
        "vllm-metadata-abstains": ROOT / "results/certificates/vllm-metadata-abstains.py",
        "vllm-metadata-evolved": ROOT / "results/champions/vllm-metadata-evolved.py",
    },
}
"""Rules by target whose kernel takes them."""
LAUNCHED = {"fa3-prepare": "fa3-whole", "fa3-vllm-prepare": "fa3-vllm-prepare"}
"""Target whose launches count: the champions of FA3 decide the cap too."""
RANDOM = 400
STEPS = {
    "fa3-metadata": (4, 4), "fa3-metadata-even": (8, 8), "vllm-metadata-abstains": (8, 8),
    "fa3-metadata-evolved": (12, 8), "vllm-metadata-evolved": (12, 8),
}  # fmt: skip
"""Ragged and uniform shapes whose steps are timed, by program."""


def cubin(source: bytes, name: str, folder: Path) -> str:
    """Compile; what ptxas says of registers and spills."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("no nvcc: put it on the path, or name it in $NVCC")
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "prepare.cu"
        path.write_text(device_source(source), encoding="utf-8")
        done = subprocess.run([nvcc, *FLAGS, "-o", str(folder / f"{name}.cubin"), str(path)], capture_output=True,
                              text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return "; ".join(sorted({x.strip() for x in done.stderr.splitlines() if "registers" in x or "spill" in x}))


def recorded(rows: list[Row], gpu: Gpu) -> list[PrepareBatch]:
    """Every recorded batch, under stock's cap and under the program's."""
    works = [r.work(decision) for r in rows for decision in (r.stock, r.chosen)]
    return [batch_of(w, gpu.num_sms) for w in dict.fromkeys(works) if w.num_splits > 1]


def steps(program: str, rows: list[Row]) -> list[dict[str, object]]:
    """Shapes spread evenly over their recorded gain; a quarter are shapes that the program leaves as they are."""
    found = []
    for ragged, count in zip((True, False), STEPS[program], strict=True):
        cold = [r for r in rows if r.case.ragged is ragged and r.result and r.setting.cache is Cache.COLD]
        mine = [r for r in cold if r.changed]
        same = [r for r in cold if not r.changed and r.chosen.num_splits > 1]
        mine.sort(key=lambda r: r.result.log_speedup if r.result else 0.0)
        picked = [(part, size, index) for part, size in ((mine, count - count // 4), (same, count // 4))
                  for index in range(size)]  # fmt: skip
        for part, size, index in picked:
            row = part[(2 * index + 1) * len(part) // (2 * size)]
            found.append({"program": program, "case": row.case.id, "shape": row.case.shape.as_json(),
                          "recorded": round(row.result.speedup if row.changed and row.result else 1.0, 4),
                          "stock": row.stock.as_row(), "chosen": row.chosen.as_row()})  # fmt: skip
    return found


def main() -> None:
    """Build everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", choices=KERNELS, default="fa3-prepare")
    parser.add_argument("--only", nargs="*", default=[], help="names of rules; all of the target otherwise")
    parser.add_argument("--random", type=int, default=RANDOM, help="random batches")
    parser.add_argument("-o", type=Path, required=True)
    given = parser.parse_args()
    folder: Path = given.o
    folder.mkdir(parents=True)
    target, gpu, programs = TARGETS[given.target], Gpu(), KERNELS[given.target]
    programs = {name: path for name, path in programs.items() if not given.only or name in given.only}
    tree = open_tree(given.source, target)
    before = tree.read(FILE)
    assert before is not None
    built = {"stock": cubin(before, "stock", folder)}
    launched = TARGETS[LAUNCHED[given.target]]
    tables = recorded_tables(launched, ROOT / "results/tables")
    by_program = {}
    for name in STEPS.keys() & programs.keys():
        asked_of = read(programs[name].read_text(encoding="utf-8"), name)
        by_program[name] = [r for r in gather(launched, asked_of, tables, gpu) if r.setting.mode is Mode.METADATA]
    rows = by_program[next(iter(programs))]
    batches = recorded(rows, gpu)
    drawn = random_batches(given.random, 7, batches[0].work)
    answers: dict[str, list[int]] = {}
    warps: dict[str, int] = {}
    for name, path in programs.items():
        form = with_stock_choice(form_of(read(path.read_text(encoding="utf-8"), name), "blocks_per_split"))
        change = change_prepare(tree, form, stock_form("blocks_per_split"), Domain())
        built[name] = cubin(change.edits[FILE], name, folder)
        warps[name] = least_warps(change.edits[FILE])
        own = read(form.source(), name)
        asked = [(rows[0].view, b.work, b.num_sms) for b in (*batches, *drawn)]
        answers[name] = [d.blocks_per_split for d in ask(own, asked, "batches")]
        if min(answers[name]) < 1:
            raise SystemExit(f"{path} answers 0 other than by `return 0`, which no kernel can divide by")
    calls = [[b.work.num_heads_kv, b.work.qheads_per_kvhead, b.num_sms, b.work.num_splits, b.work.block_m,
              b.work.block_n, list(b.n_blocks)] for b in (*batches, *drawn)]  # fmt: skip
    setting = next(r.setting.name for r in rows if r.setting.cache is Cache.COLD)
    told = {
        "target": target.name, "commit": tree.revision, "setting": setting, "built": built, "warps": warps,
        "recorded": len(batches),
        "random": len(drawn), "calls": calls, "answers": answers,
        "steps": [s for name, mine in sorted(by_program.items()) for s in steps(name, mine)],
    }  # fmt: skip
    (folder / "calls.json.gz").write_bytes(gzip.compress(json.dumps(told).encode(), 9, mtime=0))
    print(f"{len(batches)} recorded and {len(drawn)} random batches; {folder}")
    for name, text in built.items():
        print(f"  {name}: {text}")


if __name__ == "__main__":
    main()
