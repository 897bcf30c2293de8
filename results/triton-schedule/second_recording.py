"""Is the oracle lucky? The two fastest launches of each shape, measured again on another H100.

    python results/triton-schedule/second_recording.py      # second-recording.csv.gz, no GPU

The file has log speed-ups over FA3 of the fastest and the second fastest launch of 735 training and holdout shapes of
contiguous KV, in the first recording, which they were picked from, and in the one that extended the table, where FA3
and these two were bridges. Were picking by noise what makes them fast, the fastest would lose its lead over the second
when both are measured again.
"""

from __future__ import annotations

import csv
import gzip
import statistics
from pathlib import Path

FILE = Path(__file__).with_name("second-recording.csv.gz")


def main() -> None:
    """Print means by split and kind of batch."""
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    print("split,kind,shapes,first,first_again,kept,lead,lead_again")
    for kind in ("uniform", "ragged"):
        for split in ("train", "holdout"):
            group = [r for r in rows if (r["split"], r["case"][0]) == (split, kind[0])]
            first, again, second, second_again = (
                statistics.fmean(float(r[n]) for r in group) for n in ("first", "first_again", "second", "second_again")
            )
            leads = f"{first - second:.4f},{again - second_again:.4f}"
            print(f"{split},{kind},{len(group)},{first:.4f},{again:.4f},{again / first:.3f},{leads}")


if __name__ == "__main__":
    main()
