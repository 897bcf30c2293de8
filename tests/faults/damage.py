"""Damages run folders, tables and configurations at random, and reads them with every verb that does.

    python tests/faults/damage.py --cases 210 --report results/damage/report.json

Of each call it asks: a clear message and exit code 2 or 3, or the output of the whole files. A traceback, another exit
code, or other numbers with exit code 0 is a fault. Calls run in one process, through the command line's own `main`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; a bug keeps its traceback on stderr, with code -1."""
    from evolve.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["evosplit", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        err.write(traceback.format_exc())
        code = -1
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def _bytes(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 8, 64))):
        data[dice.randrange(len(data))] = dice.randrange(256)


def _header(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(100)] ^= 1 << dice.randrange(8)


def _zeroed_page(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(max(1, len(data) // PAGE)) * PAGE
    data[start : start + PAGE] = bytes(min(PAGE, len(data) - start))


def _swapped_pages(data: bytearray, dice: random.Random) -> None:
    pages = max(2, len(data) // PAGE)
    one, other = (dice.randrange(pages) * PAGE for _ in range(2))
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]


def _lost_tail(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data)) :]


def _lost_pages(data: bytearray, dice: random.Random) -> None:
    del data[(len(data) // PAGE - dice.choice((1, 2, 5))) * PAGE :]


def _digit(data: bytearray, dice: random.Random) -> None:
    places = [m.start() for m in re.finditer(rb"[0-9]\.[0-9]{3,}|[0-9]{3,}", data)]
    if places:
        at = dice.choice(places)
        data[at] = ord("1") + (data[at] - ord("0")) % 9


def _letter(data: bytearray, dice: random.Random) -> None:
    places = [m.start() for m in re.finditer(rb"[a-z_]{4,}", data)]
    if places:
        data[dice.choice(places)] ^= 1


def _emptied(data: bytearray, dice: random.Random) -> None:
    data.clear()


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _bytes, _header, _zeroed_page, _swapped_pages, _lost_tail, _lost_pages, _digit, _letter, _emptied,
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A file that is damaged, and the commands that read it; `{}` stands for the run folder."""

    name: str
    files: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


SUBJECTS = (
    Subject(
        "journal",
        ("journal.sqlite",),
        (("ls", "--json", "--runs-dir", "{}/.."), ("show", "{}"), ("show", "{}", "--json"), ("show", "{}", "1"),
         ("show", "{}", "1", "--json"), ("show", "{}", "1", "--prompt"), ("diff", "{}#0", "{}#1"),
         ("report", "{}", "-o", "{}/report.html")),
    ),
    Subject(
        "table",
        ("table/cells.csv.gz", "table/shapes.csv.gz", "table/card.json", "table/SHA256SUMS"),
        (("evaluate", "{}/best.py", "--table", "{}/table", "--json"), ("run", "--resume", "{}", "--json")),
    ),
    Subject("config", ("config.yaml",), (("run", "--resume", "{}", "--json"), ("config", "show", "{}/config.yaml"))),
)  # fmt: skip


def told(code: int, out: str, err: str) -> bool:
    """True if a command refused with a clear message."""
    return code in (2, 3) and ("error: " in err or "cannot be read" in err or '"problem"' in out)


def attack(whole: Path, subject: Subject, dice: random.Random, work: Path) -> Counter[str]:
    """Damage one file of a copy, call every command; outcomes by name."""
    found: Counter[str] = Counter()
    file, damage = dice.choice(subject.files), dice.choice(DAMAGES)
    folder = work / "runs" / "run"
    for command in subject.commands:
        outputs = []
        for damaged in (False, True):
            shutil.rmtree(work / "runs", ignore_errors=True)
            shutil.copytree(whole, folder)
            if damaged:
                data = bytearray((whole / file).read_bytes())
                damage(data, random.Random(dice.random()))
                (folder / file).write_bytes(data)
                if bytes(data) == (whole / file).read_bytes():
                    found["unchanged"] += 1
                    continue
            key = json.dumps(command)
            if not damaged and key in EXPECTED:
                outputs.append(EXPECTED[key])
                continue
            outputs.append(run([a.replace("{}", str(folder)) for a in command]))
            if not damaged:
                EXPECTED[key] = outputs[0]
        if len(outputs) < 2:
            continue
        (right_code, right, _), (code, out, err) = outputs
        outcome = (
            "traceback" if code == -1 or "Traceback" in err
            else "message" if told(code, out, err)
            else "as from the whole file" if code == right_code and out == right
            else "its own text" if code == 0 and command[0] == "config"  # it shows what the file says
            else "other exit code" if code
            else "other output"
        )  # fmt: skip
        found[outcome] += 1
        if outcome in FAULTS:
            last = (err.strip().splitlines() or [""])[-1][:300]
            EXAMPLES.append(f"{outcome}: {damage.__name__[1:]} {file}: {' '.join(command)}: exit {code}: {last}")
    return found


FAULTS = ("traceback", "other exit code", "other output")
EXPECTED: dict[str, tuple[int, str, str]] = {}
EXAMPLES: list[str] = []


def campaign(whole: Path, cases: int, seed: int) -> dict[str, dict[str, int]]:
    """Attack each subject in turn; outcomes by subject.

    Args:
        whole: folder of a finished run, with its table.
        cases: damaged files.
        seed: of the dice.
    """
    found: dict[str, Counter[str]] = {s.name: Counter() for s in SUBJECTS}
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="evosplit-damage-") as folder:
        for number in range(cases):
            # Most of them journals: they are what a run is.
            subject = SUBJECTS[(0, 0, 1, 0, 2)[number % 5]]
            found[subject.name] += attack(whole, subject, dice, Path(folder))
    return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def main() -> int:
    """Run a small search, damage it, print and write what came of it; exit code 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder of a finished run; default: a search of four proposals")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    report, whole = options.report and options.report.absolute(), options.run and options.run.absolute()
    with tempfile.TemporaryDirectory(prefix="evosplit-damage-") as folder:
        os.chdir(folder)
        if whole is None:
            code, _, err = run(["run", "configs/quickstart.yaml", "--set", "search.proposals=4", "--json"])
            assert code == 0, err
            (whole,) = Path("runs").glob("quickstart-*")
        outcomes = campaign(whole.absolute(), options.cases, options.seed)
    data = {"cases": options.cases, "seed": options.seed, "outcomes": outcomes, "faults": EXAMPLES}
    print(json.dumps(data, indent=1))
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return int(bool(EXAMPLES))


if __name__ == "__main__":
    sys.exit(main())
