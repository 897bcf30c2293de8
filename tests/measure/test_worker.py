"""The worker process that measures: its protocol, and what ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from simulated_gpu import SIMULATED_BUILD, SIMULATED_DEVICE

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Job, requested_jobs, run_request
from evaluators.measure.local import ProcessChannel
from evaluators.measure.worker_client import GpuWorker

COLD = SETTINGS["fa3_fwd-metadata-cold"]
SHAPE = DecodeShape(2, 4096, 8, 1)
BENCH_NAME = "simulated_gpu:SimulatedBench"


@pytest.fixture
def process(simulated: Path) -> Iterator[GpuWorker]:
    worker = GpuWorker(ProcessChannel(bench=BENCH_NAME))
    yield worker
    worker.close()


def test_the_worker_process_answers_and_survives_errors(process: GpuWorker) -> None:
    device, build = process.open(COLD, seed=1)
    assert (device, build) == (SIMULATED_DEVICE, SIMULATED_BUILD)
    reply = process.measure(replace(SHAPE, live_seqlens=(5, 4096)), [Decision(1), Decision(4)], rounds=6)
    assert [len(c["latencies_us"]) for c in reply["cells"]] == [6, 6]
    with pytest.raises(MeasureError, match="off") as error:
        process.measure(replace(SHAPE, batch=13), [Decision(1)], rounds=6)
    assert error.value.kind is MeasureErrorKind.WRONG
    (block,) = process.pairs(SHAPE, Decision(1), Decision(8), ["BAAB"])
    assert block.order == "BAAB" and len(block.arm("A")) == 4 and block.drop_reason == ""
    with pytest.raises(MeasureError, match="exit code 7") as error:
        process.measure(replace(SHAPE, batch=17), [Decision(1)], rounds=6)
    assert error.value.kind is MeasureErrorKind.LOST
    with pytest.raises(MeasureError, match="ended"):
        process.measure(SHAPE, [Decision(1)], rounds=6)


def test_a_worker_that_hangs_is_ended_and_named(simulated: Path) -> None:
    worker = GpuWorker(ProcessChannel(bench=BENCH_NAME), answer_s=3.0)
    worker.open(COLD, seed=1)
    with pytest.raises(MeasureError, match=r"did not answer for 3 s and was ended during measure; .* kept") as error:
        worker.measure(replace(SHAPE, batch=19), [Decision(1)], rounds=6)
    worker.close()
    assert error.value.kind is MeasureErrorKind.LOST


def test_a_worker_that_hangs_ends_with_its_controller(simulated: Path) -> None:
    command = [sys.executable, "-m", "evaluators.measure.worker_process", "--bench", BENCH_NAME]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    opening = {"op": "open", "settings": [COLD.as_json()], "seed": 0, "self_test": False}
    process.stdin.write(json.dumps(opening) + "\n")
    process.stdin.flush()
    assert "ok" in json.loads(process.stdout.readline())
    process.stdin.write(json.dumps(run_request([Job(COLD, replace(SHAPE, batch=19), (Decision(),), 6)])) + "\n")
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


def test_jobs_arrive_as_they_were_sent() -> None:
    shapes = [SHAPE, replace(SHAPE, live_seqlens=(5, 4096)), replace(SHAPE, head_dim=64, seqlen_q=2)]
    decisions = (Decision(), Decision(4, True, 8, 2), Decision(32, False))
    for setting in (COLD, SETTINGS["vllm-metadata-cold"]):
        jobs = [Job(setting, shape, decisions, 6) for shape in shapes]
        assert requested_jobs(json.loads(json.dumps(run_request(jobs)))) == jobs


def test_the_real_worker_says_what_is_missing() -> None:
    if find_spec("torch") is not None:
        pytest.skip("torch is here")
    worker = GpuWorker(ProcessChannel())
    with pytest.raises(MeasureError) as error:
        worker.open(COLD, seed=0)
    worker.close()
    assert error.value.kind is MeasureErrorKind.UNAVAILABLE and "evosplit[gpu]" in str(error.value)
