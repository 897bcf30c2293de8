"""Writes the synthetic traces of configs/traces: made-up requests, drawn from stated distributions.

    python scripts/make_traces.py configs/traces

`chat.jsonl`: a chat service, 6 requests a second for 100 s in waves, prompts of 350 tokens in the median with a long
tail (conversations that go on), answers of 180. `documents.jsonl`: questions about documents, one request a second for
200 s, prompts of 4,000 tokens, answers of 120. Arrivals are a Poisson process whose rate goes up and down.
"""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A kind of traffic: mean rate, duration, and (median, sigma, largest) of prompts and of answers."""

    rate_per_s: float
    seconds: float
    prompt: tuple[float, float, int]
    output: tuple[float, float, int]


KINDS = {
    "chat": Kind(6.0, 100.0, (350, 1.0, 8000), (180, 0.7, 1000)),
    "documents": Kind(1.0, 200.0, (4000, 0.6, 14000), (120, 0.6, 600)),
}
WAVE_S = 40.0
WAVE_SHARE = 0.6


def _length(rng: random.Random, of: tuple[float, float, int]) -> int:
    median, sigma, largest = of
    return max(1, min(largest, round(median * math.exp(sigma * rng.gauss(0, 1)))))


def trace(name: str) -> str:
    """A trace as JSONL; the same for a name every time."""
    kind, rng = KINDS[name], random.Random(name)
    lines, now = [], 0.0
    while True:
        # Thinning: candidates at the highest rate, kept with the share that the wave has then.
        now += rng.expovariate(kind.rate_per_s * (1 + WAVE_SHARE))
        if now > kind.seconds:
            return "".join(lines)
        rate = 1 + WAVE_SHARE * math.sin(2 * math.pi * now / WAVE_S)
        if rng.random() * (1 + WAVE_SHARE) < rate:
            row = {"arrival_s": round(now, 3), "prompt_tokens": _length(rng, kind.prompt),
                   "output_tokens": _length(rng, kind.output)}  # fmt: skip
            lines.append(json.dumps(row) + "\n")


def main() -> None:
    for name in KINDS:
        (Path(sys.argv[1]) / f"{name}.jsonl").write_text(trace(name), encoding="utf-8")


if __name__ == "__main__":
    main()
