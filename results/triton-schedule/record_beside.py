"""Record ragged batches beside the workload's grid, on pages: what `triton-paged.py` was fitted to besides the table.

    python results/triton-schedule/record_beside.py -o FOLDER --seconds 160

Drawn as `evosplit confirm --fresh` draws them, the same each time; all launches of the ladder and vLLM's FA3 beside
them. `slice.jsonl` gets a line per shape, as `scripts/record_triton_decode.py` writes it, with the shape's numbers.
Needs a Hopper GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import record_triton_decode as recorder

from evaluators.confirm.confirm import fresh_cases
from evaluators.data.contract import SETTINGS, Setting
from evaluators.data.workloads import Case, Weighting, cases_for
from evaluators.measure.device import ClockLog, current_device
from evaluators.measure.providers.triton_decode import TritonDecode
from evaluators.measure.shape_timer import ShapeTimer
from evaluators.triton_decode.actions import recorded_actions

SEED = "pages beside the grid, to fit on"
DRAWN, MOST_TILES = 700, 200
"""Of what is drawn, batches of more tiles are left out, which the rule leaves to FA3."""


def beside(setting: Setting) -> list[Case]:
    """The shapes, in the order in which they are recorded."""
    drawn = fresh_cases(cases_for(recorder.WORKLOAD, setting), Weighting.SERVING, Random(SEED), count=DRAWN)
    return [c for c in drawn if c.shape.batch * c.shape.num_heads_kv <= MOST_TILES]


def main() -> None:
    """Compile, then measure until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="folder of slice.jsonl, which must not exist")
    parser.add_argument("--seconds", type=float, default=160, help="from start to end, compilation included")
    options = parser.parse_args()
    started = time.monotonic()
    setting = SETTINGS["triton_decode-paged-cold"]
    options.o.mkdir(parents=True)
    compiled = recorder.compile_all(setting.page_size)
    device, provider = current_device(), TritonDecode(paged=True)
    timer, clocks = ShapeTimer(setting, provider, device.gpu()), ClockLog(device.uuid)
    with (options.o / "slice.jsonl").open("w", encoding="utf-8") as out:
        out.write(json.dumps({"seed": SEED, "device": device.as_dict(), "build": provider.build()}) + "\n")
        for case in beside(setting):
            if time.monotonic() - started > options.seconds:
                break
            actions = recorder.allowed(recorded_actions(case.shape, setting, device.gpu()), compiled)
            shape = case.shape
            row = recorder.measure(timer, clocks, case, actions)
            row["shape"] = [shape.batch, shape.seqlen_k, shape.num_heads_q, shape.num_heads_kv, shape.live_seqlens]
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
