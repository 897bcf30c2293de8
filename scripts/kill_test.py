"""Kills the processes of searches at random points, resumes them, and compares them with searches left alone.

    python scripts/kill_test.py --kills 1000 --minutes 20 -o results/kill-test/summary.json

Searches run in turn with the offline proposer and with a model endpoint on loopback, whose answers depend on the
request alone. Killed (SIGKILL): the controller, sandbox processes, the endpoint. Checked after every death of the
controller: the journal is sound, all that it held is still there, no sandbox process is left, and no answer that was
stored is asked for again; at the end of each search: its journal equals that of the search that nobody killed. A
resume must come to its first new proposal within 5 s of CPU time; wall time is reported beside it, for it depends on
what else the machine does. Exit code 1 on the first violation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.journal import FILE_NAME, Journal

ROOT = Path(__file__).parent.parent
PR_SET_CHILD_SUBREAPER = 36
RESUME_S = 5.0
SANDBOX_SHARE = 0.4
"""Chance of a sandbox process to be killed, while no two in a row were."""

SPARED = 8
"""Sandbox processes left alone after two in a row: a candidate that is killed again and again counts as crashed, as it
would on a machine without memory."""

ENDPOINT_CHANCE = 0.01
"""Chance of the endpoint to be killed, every 5 ms."""

KEY = "KILL_TEST_KEY"


class Violation(Exception):
    """Something was lost, doubled, left over or late."""


@dataclass
class Tally:
    """What was done and seen."""

    controller: int = 0
    sandbox: int = 0
    proposer: int = 0
    searches: int = 0
    resume_wall_s: list[float] = field(default_factory=list)
    resume_cpu_s: list[float] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All of them."""
        return self.controller + self.sandbox + self.proposer


class Endpoint:
    """The process that serves it, always on the same port."""

    def __init__(self, log: Path) -> None:
        """Start it."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.log = log
        self.log.touch()
        self.start()

    def start(self) -> None:
        """Start it, after a kill as well."""
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "scripts/kill_endpoint.py", str(self.port), self.log], stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def sent(self) -> list[int]:
        """Seeds of the requests that were answered so far."""
        return [int(line) for line in self.log.read_text().split()]


def command(config: Path, runs: Path, folder: Path | None) -> list[str]:
    """The search as a user starts it, or goes on with it."""
    start = [sys.executable, "-c", "from evolve.cli import main; main()", "run"]
    return [*start, "--resume", str(folder)] if folder else [*start, str(config), "--set", f"runs_dir={runs}"]


def folder_of(runs: Path) -> Path | None:
    """The one run folder that holds a journal."""
    return next((p.parent for p in runs.glob(f"*/{FILE_NAME}")), None)


def rows(folder: Path) -> dict[str, dict[int, tuple[object, ...]]]:
    """All rows of the journal by table and id; the journal must be sound."""
    with sqlite3.connect(folder / FILE_NAME) as db:
        verdict = db.execute("PRAGMA integrity_check").fetchone()
        if verdict != ("ok",):
            raise Violation(f"integrity_check: {verdict}")
        found = {}
        for table in ("proposals", "answers", "results"):
            try:
                found[table] = {row[0]: row for row in db.execute(f"SELECT * FROM {table}")}
            except sqlite3.OperationalError:  # killed before the tables were there
                found[table] = {}
    db.close()
    return found


def proposals(folder: Path | None) -> int:
    """How many proposals were asked for; 0 while there is no journal."""
    if folder is None:
        return 0
    try:
        db = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
        try:
            return int(db.execute("SELECT count(*) FROM proposals").fetchone()[0])
        finally:
            db.close()
    except sqlite3.Error:
        return 0


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes started by a process."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        pass
    return found


class Killer:
    """Runs searches and kills what belongs to them."""

    def __init__(self, work: Path, *, proposals: int, seed: int) -> None:
        """Prepare configurations for both proposers, and the searches that nobody kills."""
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.work, self.count = work, proposals
        self.endpoint = Endpoint(work / "sent.log")
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), KEY: "secret"}
        self.configs = {kind: self._config(kind) for kind in ("offline", "openai")}
        self.references = {kind: self._reference(kind) for kind in self.configs}

    def _config(self, kind: str) -> Path:
        proposer = {"kind": kind}
        if kind == "openai":
            url = f"http://127.0.0.1:{self.endpoint.port}/v1"
            proposer |= {"base_url": url, "model": "test", "api_key_env": KEY, "retries": 30, "backoff_s": 0.05}
        config = {
            "name": "kill",
            "seeds": [str(ROOT / "seeds/fa3_stock.py")],
            "judge": {"workload": "bsc-160", "setting": "fa3_fwd-static-cold"},
            "proposer": proposer,
            "search": {"proposals": self.count, "window": 4, "archive_size": 8, "migration_interval": 10},
        }
        path = self.work / f"{kind}.yaml"
        path.write_text(json.dumps(config))
        return path

    def _start(self, kind: str, runs: Path) -> subprocess.Popen[bytes]:
        log = (self.work / "stderr.log").open("wb")
        return subprocess.Popen(
            command(self.configs[kind], runs, folder_of(runs)), env=self.environment, cwd=self.work,
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip

    def _content(self, runs: Path) -> object:
        folder = folder_of(runs)
        assert folder is not None
        journal = Journal(folder / FILE_NAME, read_only=True)
        content = journal.content()
        journal.close()
        text = json.dumps(content)
        return json.loads(text.replace(str(runs), "RUNS"))

    def _reference(self, kind: str) -> object:
        runs = self.work / f"reference-{kind}"
        if self._start(kind, runs).wait() != 0:
            raise Violation(f"the reference search failed: {(self.work / 'stderr.log').read_text()[-500:]}")
        return self._content(runs)

    def search(self, until_kills: int, deadline: float) -> None:
        """One search, killed until it ends; left alone once there were kills enough."""
        kind = ("offline", "openai")[self.tally.searches % 2]
        runs = self.work / f"runs-{self.tally.searches}"
        before: dict[str, dict[int, tuple[object, ...]]] = {"proposals": {}, "answers": {}, "results": {}}
        while True:
            enough = self.tally.kills >= until_kills or time.monotonic() > deadline
            code = self._life(kind, runs, before, left_alone=enough)
            folder = folder_of(runs)
            if folder is not None:
                before = self._checked(folder, before)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise Violation(f"exit code {code}: {(self.work / 'stderr.log').read_text()[-800:]}")
        if self._content(runs) != self.references[kind]:
            raise Violation(f"{runs}: the journal differs from that of the uninterrupted search")
        shutil.rmtree(runs)
        self.tally.searches += 1

    def _life(
        self, kind: str, runs: Path, before: dict[str, dict[int, tuple[object, ...]]], *, left_alone: bool
    ) -> int:
        """One life of a controller; returns how it ended."""
        stored = {self._seed(row) for i, row in before["proposals"].items() if i in before["answers"]}
        sent = len(self.endpoint.sent())
        asked, started, seen_new = len(before["proposals"]), time.monotonic(), False
        controller = self._start(kind, runs)
        # Some die while they start, most while they work: counted from the first new proposal, so that a slow start
        # does not shield the work.
        never = float("inf")
        dies_at = never if left_alone or self.rng.random() < 0.8 else 0.05 + 3 * self.rng.random()
        known, row, polled = set[int](), 0, 0.0
        while controller.poll() is None:
            elapsed = time.monotonic() - started
            if not seen_new and elapsed > polled + 0.05:
                polled = elapsed
                if proposals(folder_of(runs)) > asked:
                    seen_new = True
                    if asked and kind == "offline":  # the endpoint may be down just now
                        self._came_back(controller.pid, elapsed)
                    if not left_alone:
                        dies_at = min(dies_at, elapsed + 4 * self.rng.random())
            if elapsed >= dies_at:
                controller.kill()
                controller.wait()
                self.tally.controller += 1
                break
            if not left_alone:
                fresh = [p for p in children(controller.pid) if p not in known]
                known |= set(fresh)
                for pid in fresh:
                    row = 0 if row >= 2 + SPARED else row + 1 if row >= 2 else row
                    if row < 2 and self.rng.random() < SANDBOX_SHARE:
                        row += 1
                        time.sleep(0.06 * self.rng.random())
                        self._kill_child(pid, controller.pid)
                    elif row < 2:
                        row = 0
                if kind == "openai" and self.rng.random() < ENDPOINT_CHANCE:
                    self.endpoint.kill()
                    self.endpoint.start()
                    self.tally.proposer += 1
            time.sleep(0.005)
        code = controller.wait()
        self._no_orphans()
        again = stored & set(self.endpoint.sent()[sent:])
        if again:
            raise Violation(f"{len(again)} answers that were stored were asked for again")
        return code

    def _came_back(self, pid: int, elapsed_s: float) -> None:
        """A resumed search has asked for its first new proposal."""
        try:
            cpu_s = cpu_seconds(pid)
        except OSError:  # it has ended meanwhile
            return
        self.tally.resume_wall_s.append(elapsed_s)
        self.tally.resume_cpu_s.append(cpu_s)
        if cpu_s > RESUME_S:
            raise Violation(f"a resume took {cpu_s:.1f} s of CPU time to its first new proposal")

    @staticmethod
    def _seed(row: tuple[object, ...]) -> int:
        return int(str(row[6])) % 2**31

    def _kill_child(self, pid: int, parent: int) -> None:
        """Kill a sandbox process, unless it has ended: a number that somebody else got since is left alone."""
        if pid not in children(parent):
            return
        try:
            os.kill(pid, signal.SIGKILL)
            self.tally.sandbox += 1
        except ProcessLookupError:
            pass

    def _no_orphans(self) -> None:
        """Sandbox processes end with their controller; orphans would be children of this process now."""
        for _ in range(100):
            left = [p for p in children(os.getpid()) if p != self.endpoint.process.pid]
            for pid in left:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
            if not left:
                return
            time.sleep(0.02)
        raise Violation(f"left over 2 s after their controller: {left}")

    def _checked(
        self, folder: Path, before: dict[str, dict[int, tuple[object, ...]]]
    ) -> dict[str, dict[int, tuple[object, ...]]]:
        """What the journal holds now: all that it held before, and no more than was asked for."""
        now = rows(folder)
        for table, known in before.items():
            for index, row in known.items():
                if now[table].get(index) != row:
                    raise Violation(f"{table} {index} was lost or changed")
        if set(now["results"]) - set(now["proposals"]) or len(now["proposals"]) > self.count + 1:
            raise Violation("results without proposals, or too many")
        return now


def add_to(path: Path, summary: dict[str, Any]) -> None:
    """Add a session to a record of several, and its kills to the total."""
    sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else []
    sessions.append(summary)
    killed: Counter[str] = Counter()
    for session in sessions:
        killed.update(session["killed"])
    record = {
        "kills": sum(killed.values()),
        "killed": dict(killed),
        "searches_compared": sum(session["searches_compared"] for session in sessions),
        "violations": sum(bool(session["violation"]) for session in sessions),
        "sessions": sessions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="go on until so many processes were killed")
    parser.add_argument("--minutes", type=float, default=30.0, help="or until so much time has passed")
    parser.add_argument("--proposals", type=int, default=80, help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="add the summary to this file, as JSON")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-test-") as work:
        killer = Killer(Path(work), proposals=options.proposals, seed=options.seed)
        try:
            while killer.tally.kills < options.kills and time.monotonic() < started + 60 * options.minutes:
                killer.search(options.kills, started + 60 * options.minutes)
                print(f"{killer.tally.kills} kills, {killer.tally.searches} searches", file=sys.stderr, flush=True)
            violation = ""
        except Violation as error:
            violation = str(error)
        finally:
            killer.endpoint.kill()
    tally = killer.tally

    def spread(values: list[float]) -> dict[str, float]:
        values = sorted(values) or [0.0]
        return {"median": round(values[len(values) // 2], 2), "max": round(values[-1], 2)}

    summary = {
        "kills": tally.kills,
        "killed": {"controller": tally.controller, "sandbox": tally.sandbox, "model_endpoint": tally.proposer},
        "gpu_worker": "none in this version",
        "searches_compared": tally.searches,
        "proposals_per_search": options.proposals,
        "resumes_to_a_new_proposal": len(tally.resume_wall_s),
        "resume_wall_s": spread(tally.resume_wall_s),
        "resume_cpu_s": spread(tally.resume_cpu_s),
        "load_average_15_min": round(os.getloadavg()[2], 1),
        "violation": violation,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "seed": options.seed,
    }
    text = json.dumps(summary, indent=1) + "\n"
    print(text, end="")
    if options.output:
        add_to(options.output, summary)
    return 1 if violation else 0


if __name__ == "__main__":
    sys.exit(main())
