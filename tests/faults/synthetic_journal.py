"""Make a run folder of any size without a search, for load tests of the dashboard.

Everything in it is made up but the recorded table: programs are FA3's stock decision with other numbers in it, their
decisions are drawn from the recorded launches, and their scores follow from those decisions. The run is named
`synthetic` and so is its proposer, wherever they are shown.

    python tests/faults/synthetic_journal.py --proposals 3000 -o runs/synthetic-3000
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import statistics
from pathlib import Path

from evaluators.data.contract import Decision
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.gain import log_speedups
from evaluators.data.status import Status
from evaluators.data.workloads import Split, Weighting, weights
from evaluators.judge.judge import SEARCH_SPLITS
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import read_table, restrict
from evolve.assets import asset
from evolve.config import RunConfig, parse_config
from evolve.journal.journal import Journal, open_journal
from evolve.journal.run_folder import CONFIG_FILE, keep_tables
from evolve.proposal import Response

FAILURES = {
    Status.DUPLICATE: 0.12,
    Status.SYNTAX: 0.03,
    Status.LANGUAGE: 0.02,
    Status.RAISED: 0.03,
    Status.TIMEOUT: 0.01,
    Status.UNRECORDED: 0.03,
    Status.PROPOSER_FAILED: 0.01,
}
"""How often a proposal ends otherwise than with a score."""


class Maker:
    """Makes up proposals."""

    def __init__(self, config: RunConfig, seed: int) -> None:
        """Read the table and work out what each recorded decision gains."""
        self.rng = random.Random(seed)
        table = restrict(read_table(asset(config.table_path())), SEARCH_SPLITS)
        self.digest, self.card, self.setting = table.digest, table.card, table.setting
        by_split = {s: weights([c for c in table.cases if c.split is s], Weighting.SERVING) for s in SEARCH_SPLITS}
        self.shares = {case: (split, share) for split, found in by_split.items() for case, share in found.items()}
        self.cases = [c for c in table.cases if c.id in self.shares]
        self.cells = {
            c.id: [
                (x.decision, statistics.median(log_speedups(table.cells[c.id][0].latencies_us, x.latencies_us)))
                for x in table.cells[c.id]
            ]
            for c in self.cases
        }
        self.oracle = dict.fromkeys(SEARCH_SPLITS, 0.0)
        for case, (split, share) in self.shares.items():
            self.oracle[split] += share * oracle_of(table.cells[case]).log_gain
        self.stock = asset("seeds/fa3_stock.py").read_text(encoding="utf-8")

    def child(self, picks: list[int]) -> list[int]:
        """Other decisions on some shapes; a better one more often than a worse one."""
        made = list(picks)
        for _ in range(self.rng.randint(5, 60)):
            i = self.rng.randrange(len(made))
            cells = self.cells[self.cases[i].id]
            other = self.rng.randrange(len(cells))
            if cells[other][1] > cells[made[i]][1] or self.rng.random() < 0.05:
                made[i] = other
        return made

    def evaluation(self, source: str, picks: list[int]) -> Evaluation:
        """Plausible evaluation of these decisions."""
        logs = {c.id: self.cells[c.id][k][1] for c, k in zip(self.cases, picks, strict=True)}
        decisions = tuple(self.cells[c.id][k][0] for c, k in zip(self.cases, picks, strict=True))
        return Evaluation(
            Status.OK,
            source_hash=hashlib.sha256(source.encode()).hexdigest(),
            normal_form=hashlib.sha256(source.encode()).hexdigest(),
            decisions_hash=hashlib.sha256(repr(picks).encode()).hexdigest(),
            decisions=decisions,
            train=self._score(logs, Split.TRAIN),
            holdout=self._score(logs, Split.HOLDOUT),
            features={
                "complexity": float(len(source) // 8 + self.rng.randint(0, 400)),
                "mean_splits": statistics.fmean(min(d.num_splits or 1, 32) for d in decisions),
                "share_changed": sum(d != Decision() and k > 0 for d, k in zip(decisions, picks, strict=True))
                / len(picks),
            },
        )

    def _score(self, logs: dict[str, float], wanted: Split) -> SplitScore:
        counted = [(share, logs[case]) for case, (split, share) in self.shares.items() if split is wanted]
        gain = sum(share * log for share, log in counted)
        return SplitScore(
            math.exp(gain), math.exp(gain), gain / self.oracle[wanted], sum(log < -0.01 for _, log in counted),
            math.exp(min(log for _, log in counted)), len(counted), 0, 0,
        )  # fmt: skip

    def source(self, index: int) -> str:
        """The stock program with other numbers in it."""
        test = f"shape.batch > {index % 61} and shape.seqlen_k > {index * 7 % 4096}"
        head = f"    # synthetic program {index}\n    if {test}:\n"
        body = f"        return {1 + index % 32}, None, 0\n"
        mark = "def schedule(shape, gpu):\n"
        return self.stock.replace(mark, mark + head + body)


def make(folder: Path, proposals: int, seed: int) -> None:
    """Write the run folder, which must not exist."""
    config = parse_config({
        "name": "synthetic",
        "random_seed": seed,
        "search": {"proposals": proposals, "islands": 3, "migration_interval": 60},
    })  # fmt: skip
    maker = Maker(config, seed)
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(config.dump_yaml(), encoding="utf-8")
    keep_tables([asset(config.table_path())], folder)
    with open_journal(folder, read_only=False) as journal:
        meta = {
            "workload": str(maker.card["workload"]), "setting": maker.setting.name, "weighting": "serving",
            "table_sha256": maker.digest, "gpu": str(maker.card["device"]["name"]), "build": str(maker.card["build"]),
            "run": folder.name, "proposer": "synthetic", "proposals": str(proposals), "config": config.dump_yaml(),
        }  # fmt: skip
        for key, value in meta.items():
            journal.set_meta(key, value)
        _fill(journal, maker, proposals)


def _fill(journal: Journal, maker: Maker, proposals: int) -> None:
    rng = maker.rng
    picks: dict[int, list[int]] = {0: [0] * len(maker.cases)}
    sources = {0: maker.stock}
    members: list[list[int]] = [[0], [0], [0]]
    _ask(journal, 0, "seed", 0, None, (), "")
    journal.result(0, maker.stock, maker.evaluation(maker.stock, picks[0]))
    for index in range(1, proposals + 1):
        parent = rng.choice(members[index % 3][-20:])
        prompt = f"The program to improve:\n{sources[parent]}\nsynthetic prompt {index}"
        _ask(
            journal, index, "proposal", index % 3, parent, tuple(rng.sample(sorted(picks), min(2, len(picks)))), prompt
        )
        status = rng.choices([Status.OK, *FAILURES], [1 - sum(FAILURES.values()), *FAILURES.values()])[0]
        source = maker.source(index)
        if status is Status.PROPOSER_FAILED:
            journal.answer(index, None, "synthetic failure")
            journal.result(index, "", Evaluation(status, "synthetic failure"))
            continue
        journal.answer(
            index, Response(f"```python\n{source}```", "synthetic", f"synthetic edit {index % 9}", 1200, 400, 0.002)
        )
        if status is Status.OK:
            picks[index], sources[index] = maker.child(picks[parent]), source
            members[index % 3].append(index)
            journal.result(index, source, maker.evaluation(source, picks[index]), elapsed_s=0.2)
        else:
            again = rng.choice(sorted(picks)) if status is Status.DUPLICATE else None
            journal.result(
                index, source, Evaluation(status, f"synthetic {status.value}"), duplicate_of=again, elapsed_s=0.1
            )


def _ask(
    journal: Journal, index: int, kind: str, island: int, parent: int | None, inspirations: tuple[int, ...], user: str
) -> None:
    journal.ask({
        "id": index, "kind": kind, "island": island, "parent": parent, "inspirations": inspirations, "diff": False,
        "seed": index, "system": "synthetic system prompt", "user": user,
    })  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists")
    make(options.output, options.proposals, options.seed)
