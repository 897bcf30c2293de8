"""One search of kill_searches.py after the other: killed, resumed, compared with one that nobody killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kill_processes import (
    LIVE_MAIN,
    ROOT,
    SANDBOX,
    WORKER,
    Endpoint,
    Violation,
    children,
    cpu_seconds,
    executes,
    kill_child,
    no_orphans,
)
from kill_records import Rows, checked, content, difference, folder_of, launches, proposals

from evaluators.sandbox.process import OUTSIDE_KILLS
from evolve.errors import EXIT_MISSING

RESUME_S = 5.0
SANDBOX_SHARE = 0.4
"""Chance of a sandbox process to be killed. Five in a row for one candidate end the search, resumably."""

ENDPOINT_CHANCE = 0.01
"""Chance of the endpoint to be killed, every 5 ms."""

WORKER_SHARE = 0.7
"""Chance that the GPU worker dies where the controller would have; the search then ends by itself, resumably."""

KEY = "KILL_TEST_KEY"
MAIN = "from evolve.cli import main; main()"


@dataclass
class Tally:
    """Record of a campaign."""

    controller: int = 0
    sandbox: int = 0
    proposer: int = 0
    gpu_worker: int = 0
    given_up: int = 0
    searches: dict[str, int] = field(default_factory=dict)
    launches: int = 0
    resume_wall_s: list[float] = field(default_factory=list)
    resume_cpu_s: list[float] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Total of all kills."""
        return self.controller + self.sandbox + self.proposer + self.gpu_worker


class Life:
    """Results that one life of a controller must keep, and the condition of its end."""

    def __init__(self, runs: Path, before: Rows, sent: int, log: Path) -> None:
        """Look at what there is before it starts."""
        self.started = time.monotonic()
        self.asked = len(before["proposals"])
        self.answered = {int(str(row[6])) % 2**31 for i, row in before["proposals"].items() if i in before["answers"]}
        self.sent = sent
        self.stored = {f"{shape} {launch}" for shape, launch, *_ in launches(runs)}
        self._log, self._logged = log, log.stat().st_size if log.exists() else 0
        self.workers_killed = 0
        self.sandboxes_killed = 0

    @property
    def elapsed_s(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    @property
    def may_end(self) -> bool:
        """True if it may end by itself, with a message, before the search is done."""
        return self.workers_killed > 0 or self.sandboxes_killed >= OUTSIDE_KILLS

    def check(self, sent: list[int]) -> None:
        """Raises: Violation: an answer that was stored was asked for again, or a launch measured again."""
        again = self.answered & set(sent[self.sent :])
        if again:
            raise Violation(f"{len(again)} answers that were stored were asked for again")
        if self._log.exists():
            measured = self._log.read_text()[self._logged :].splitlines()
            if self.stored & set(measured):
                raise Violation("launches that were stored were measured again")
            # A worker may die between its note and its reply: that shape is measured again, and no other.
            again = {line.split()[0] for line, times in Counter(measured).items() if times > 1}
            if len(again) > self.workers_killed:
                raise Violation("launches were measured again of which the pool had the results")


class Killer:
    """Runs searches and kills what belongs to them."""

    def __init__(self, work: Path, *, proposals: int, seed: int, kinds: tuple[str, ...]) -> None:
        """Start the endpoint."""
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.work, self.count, self.kinds = work, proposals, kinds
        self.endpoint = Endpoint(work / "sent.log")
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests/faults",
            "TMPDIR": str(work),
            KEY: "secret",
        }
        self.references: dict[str, object] = {}

    def _config(self, kind: str) -> Path:
        judge = {"workload": "bsc-160", "setting": "fa3_fwd-static-cold"}
        proposer: dict[str, object] = {"kind": "offline"}
        search = {"proposals": self.count, "window": 4, "archive_size": 8, "migration_interval": 10}
        if kind == "openai":
            url = f"http://127.0.0.1:{self.endpoint.port}/v1"
            proposer = {"kind": kind, "base_url": url, "model": "test", "api_key_env": KEY, "retries": 30}
            proposer |= {"backoff_s": 0.05, "correct": False}
        if kind == "live":
            judge |= {"measure": "live", "weighting": "chat", "setting": "fa3_fwd-metadata-cold"}
            # One after the other: what is known of a launch is what the programs before it had measured.
            search |= {"window": 1, "parallel_proposals": 1, "parallel_evaluations": 1}
        seeds = [str(ROOT / "seeds/fa3_stock.py")]
        path = self.work / f"{kind}.yaml"
        path.write_text(
            json.dumps({"name": "kill", "seeds": seeds, "judge": judge, "proposer": proposer, "search": search})
        )
        return path

    @staticmethod
    def _worker_log(runs: Path) -> Path:
        return runs.with_suffix(".measured")

    def _start(self, kind: str, runs: Path) -> subprocess.Popen[bytes]:
        """The search as a user starts it, or goes on with it."""
        main = [LIVE_MAIN, str(self._worker_log(runs))] if kind == "live" else [MAIN]
        folder = folder_of(runs)
        how = ["--resume", str(folder)] if folder else [str(self._config(kind)), "--set", f"runs_dir={runs}"]
        log = (self.work / "stderr.log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-c", *main, "run", *how], env=self.environment, cwd=self.work,
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip

    def _said(self, chars: int) -> str:
        return (self.work / "stderr.log").read_text()[-chars:]

    def _reference(self, kind: str) -> object:
        runs = self.work / f"reference-{kind}"
        if self._start(kind, runs).wait() != 0:
            raise Violation(f"the reference search failed: {self._said(500)}")
        return content(runs)

    def search(self, until_kills: int, deadline: float) -> None:
        """One search, killed until it ends; left alone once there were kills enough.

        Raises:
            Violation: see the module that is run.
        """
        number = sum(self.tally.searches.values())
        kind = self.kinds[number % len(self.kinds)]
        runs = self.work / f"runs-{number}"
        before: Rows = {"proposals": {}, "answers": {}, "results": {}}
        while True:
            enough = self.tally.kills >= until_kills or time.monotonic() > deadline
            life = Life(runs, before, len(self.endpoint.sent()), self._worker_log(runs))
            code = self._live(life, kind, runs, left_alone=enough)
            self.tally.sandbox += life.sandboxes_killed
            if code == EXIT_MISSING and not life.workers_killed:
                self.tally.given_up += 1
            life.check(self.endpoint.sent())
            folder = folder_of(runs)
            if folder is not None:
                before = checked(folder, before, at_most=self.count + 1)
            if code == 0:
                break
            if code != -signal.SIGKILL and not (code == EXIT_MISSING and life.may_end):
                raise Violation(f"exit code {code}: {self._said(800)}")
        if kind not in self.references:
            self.references[kind] = self._reference(kind)
        parted = difference(self.references[kind], content(runs))
        if parted:
            raise Violation(f"{kind}: not what the uninterrupted search left: {parted}")
        self.tally.launches += len(launches(runs))
        shutil.rmtree(runs)
        self.tally.searches[kind] = self.tally.searches.get(kind, 0) + 1

    def _live(self, life: Life, kind: str, runs: Path, *, left_alone: bool) -> int:
        """One life of a controller; returns how it ended."""
        controller = self._start(kind, runs)
        # Some die while they start, most while they work: counted from the first new proposal, so that a slow start
        # does not shield the work.
        never = float("inf")
        dies_at = never if left_alone or self.rng.random() < 0.8 else 0.05 + 3 * self.rng.random()
        by_worker = kind == "live" and self.rng.random() < WORKER_SHARE
        known, polled, seen_new = set[int](), 0.0, False
        while controller.poll() is None:
            if not seen_new and life.elapsed_s > polled + 0.05:
                polled = life.elapsed_s
                if proposals(folder_of(runs)) > life.asked:
                    seen_new = True
                    if life.asked and kind != "openai":  # the endpoint may be down just now
                        self._came_back(controller.pid, life.elapsed_s)
                    if not left_alone:
                        dies_at = min(dies_at, life.elapsed_s + 4 * self.rng.random())
            if life.elapsed_s >= dies_at and not life.workers_killed:
                workers = [p for p in children(controller.pid) if executes(p, WORKER)] if by_worker else []
                if not by_worker:
                    controller.kill()
                    controller.wait()
                    self.tally.controller += 1
                    break
                if workers and kill_child(workers[0], controller.pid):
                    life.workers_killed += 1
                    self.tally.gpu_worker += 1
            if not left_alone:
                fresh = [p for p in children(controller.pid) if p not in known and executes(p, SANDBOX)]
                known |= set(fresh)
                for pid in fresh:
                    if self.rng.random() < SANDBOX_SHARE:
                        time.sleep(0.04 * self.rng.random())
                        life.sandboxes_killed += kill_child(pid, controller.pid)
                if kind == "openai" and self.rng.random() < ENDPOINT_CHANCE:
                    self.endpoint.kill()
                    self.endpoint.start()
                    self.tally.proposer += 1
            time.sleep(0.005)
        code = controller.wait()
        no_orphans(self.endpoint.process.pid)
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
