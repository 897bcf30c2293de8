"""An engine for engine_tpot.py whose steps take the time that its arm's name says, and no GPU."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from engine_arm import FA3, load_fa3, serve


class PretendedArm:
    """4 ms a step; 3% less with the plugin on; noise of 1%, more now and then; dies or fails where lengths say so."""

    def __init__(self) -> None:
        self.rng = random.Random(os.environ["EVOSPLIT_PLUGIN"])
        self.step_s = 0.004 / (1.03 if os.environ["EVOSPLIT_PLUGIN"] == "1" else 1.0)

    def begin(self, lengths: list[int]) -> dict[str, Any]:
        if len(lengths) == 2:
            raise RuntimeError("CUDA out of memory")
        if len(lengths) == 4:
            sys.exit(1)
        return {}

    def steps(self, count: int) -> dict[str, Any]:
        return {"seconds": [self.step_s * self.rng.gauss(1, 0.01) + 0.002 * (self.rng.random() < 0.05)
                            for _ in range(count)]}  # fmt: skip

    def end(self) -> dict[str, Any]:
        return {}

    def probe(self) -> dict[str, Any]:
        return {"probe": {"probe0": [[5, -0.5], [7, -1.0 - self.step_s]]}}


library = json.loads(sys.stdin.readline())["library"]
sys.modules["torch"] = ModuleType("torch")
if library:
    load_fa3(library)
print(json.dumps({"vllm": "none", "fa3": sys.modules[FA3].__file__ if FA3 in sys.modules else None}), flush=True)
print("evosplit: served", file=sys.stderr)
serve(PretendedArm(), sys.stdin, sys.stdout)
