"""Kills the processes of searches at random points, resumes them, and compares them with searches left alone.

    python tests/faults/kill_searches.py --kills 1000 --minutes 20 -o results/kill-test/summary.json

Searches run in turn with the offline proposer, with a model endpoint on loopback whose answers depend on the request
alone, and live, with a simulated GPU worker whose latencies depend on the launch alone. Killed (SIGKILL): the
controller, sandbox processes, the endpoint, the GPU worker. Checked after every death of a controller: journal and
latency store are sound, all that the journal held is still there, no process is left, no answer that was stored is
asked for again, no launch that was stored is measured again; at the end of each search: journal and store equal those
of the search that nobody killed. A resume must come to its first new proposal within 5 s of CPU time; wall time is
reported beside it, for it depends on what else the machine does. Exit code 1 on the first violation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kill_processes import Violation
from kill_search import Killer

PR_SET_CHILD_SUBREAPER = 36
KINDS = ("offline", "openai", "live")


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


def spread(values: list[float]) -> dict[str, float]:
    """Median and largest."""
    values = sorted(values) or [0.0]
    return {"median": round(values[len(values) // 2], 2), "max": round(values[-1], 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="go on until so many processes were killed")
    parser.add_argument("--minutes", type=float, default=30.0, help="or until so much time has passed")
    parser.add_argument("--proposals", type=int, default=80, help="of each search")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="searches, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="add the summary to this file, as JSON")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    deadline = started + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="kill-test-") as work:
        killer = Killer(Path(work), proposals=options.proposals, seed=options.seed, kinds=tuple(options.kinds))
        tally = killer.tally
        violation = ""
        try:
            while tally.kills < options.kills and time.monotonic() < deadline:
                killer.search(options.kills, deadline)
                print(f"{tally.kills} kills, {sum(tally.searches.values())} searches", file=sys.stderr, flush=True)
        except Violation as error:
            violation = str(error)
        finally:
            killer.endpoint.kill()
    summary = {
        "kills": tally.kills,
        "killed": {
            "controller": tally.controller,
            "sandbox": tally.sandbox,
            "model_endpoint": tally.proposer,
            "gpu_worker_simulated": tally.gpu_worker,
        },
        "searches_compared": sum(tally.searches.values()),
        "searches": tally.searches,
        "launches_compared": tally.launches,
        "proposals_per_search": options.proposals,
        "ended_by_five_killed_sandboxes": tally.given_up,
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
    print(json.dumps(summary, indent=1))
    if options.output:
        add_to(options.output, summary)
    return 1 if violation else 0


if __name__ == "__main__":
    sys.exit(main())
