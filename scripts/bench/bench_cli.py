"""Time how long the command line takes to answer; exit code 1 above the limits."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

LIMITS_S = {"--help": 0.3, "run --help": 0.3, "--version": 0.3}
REPEATS = 7


def seconds(arguments: list[str]) -> float:
    """Median wall time of one command in a fresh process."""
    command = [sys.executable, "-c", "from evolve.cli import main; main()", *arguments]
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> int:
    """Measure each command and print one line of JSON."""
    found = {arguments: round(seconds(arguments.split()), 3) for arguments in LIMITS_S}
    print(json.dumps({"median_s": found, "limits_s": LIMITS_S}))
    return int(any(found[arguments] > limit for arguments, limit in LIMITS_S.items()))


if __name__ == "__main__":
    raise SystemExit(main())
