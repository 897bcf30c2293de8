"""A model shared by two ranks: processes on the CPU that sum by gloo, as GPUs do by NCCL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

if find_spec("torch") is None or find_spec("triton") is None:
    pytest.skip("torch or Triton is missing", allow_module_level=True)

import torch
import torch.distributed as dist

os.environ["TRITON_INTERPRET"] = "1"

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers import CallInputs
from evaluators.measure.shape_timer import WrongOutputError, reference
from evaluators.tokens.crew import Crew, check_gpus
from evaluators.tokens.rank import serve
from evaluators.tokens.ranks import ManyRanks
from evaluators.tokens.shard import Shard
from evaluators.tokens.step import DecodeStep, LayerWeights, Weights

WHOLE = Shard("tiny", 1, hidden=48, layers=2, num_heads_q=4, num_heads_kv=2, head_dim=16, intermediate=40, vocab=64)
HALF = Shard("tiny", 2, hidden=48, layers=2, num_heads_q=2, num_heads_kv=1, head_dim=16, intermediate=20, vocab=32)
SETTING = SETTINGS["fa3_fwd-metadata-cold"]
BATCH, KEYS = 3, 24


def both(tmp_path: Path, work: Callable[..., None]) -> list[Any]:
    """Results of `work(ranks)` on two ranks, each a process of its own."""
    context = get_context("spawn")
    answers = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(str(tmp_path / "store"), r, work, answers)) for r in range(2)]
    for rank in ranks:
        rank.start()
    found = dict(answers.get() for _ in ranks)
    for rank in ranks:
        rank.join(30)
        assert rank.exitcode == 0
    return [found[r] for r in range(2)]


def _rank(store: str, rank: int, work: Callable[..., Any], answers: Any) -> None:
    torch.set_num_threads(1)  # threads that wait for each other take minutes on a busy machine
    ranks = ManyRanks(dist.FileStore(store, 2), rank, 2, backend="gloo")
    try:
        answers.put((rank, work(ranks)))
    except Exception as error:
        answers.put((rank, f"{type(error).__name__}: {error}"))
    dist.destroy_process_group()


def matrix(seed: int, *size: int) -> torch.Tensor:
    drawn = torch.randn(*size, generator=torch.Generator().manual_seed(seed))
    return (drawn * size[-1] ** -0.5).bfloat16()


def weights_of(shard: Shard, rank: int) -> Weights:
    """The whole model's weights, or what a rank holds of them: columns of QKV, gate, up and head, rows of the rest."""

    def cut(whole: torch.Tensor, dim: int) -> torch.Tensor:
        return whole.chunk(shard.tp, dim)[rank].contiguous() if shard.tp > 1 else whole

    def layer(n: int) -> LayerWeights:
        q, k, v = (matrix(10 * n + i, heads * 16, 48) for i, heads in ((0, 4), (1, 2), (2, 2)))
        gate, up = matrix(10 * n + 3, 40, 48), matrix(10 * n + 4, 40, 48)
        ones = torch.ones(48, dtype=torch.bfloat16)
        return LayerWeights(
            torch.cat([cut(q, 0), cut(k, 0), cut(v, 0)]), cut(matrix(10 * n + 5, 48, 64), 1),
            torch.cat([cut(gate, 0), cut(up, 0)]), cut(matrix(10 * n + 6, 48, 40), 1), ones, ones,
        )  # fmt: skip

    return Weights((layer(1), layer(2)), torch.ones(48, dtype=torch.bfloat16), cut(matrix(99, 64, 48), 0))


def logits(ranks: ManyRanks | None, shard: Shard) -> list[list[float]]:
    rank = 0 if ranks is None else ranks.rank
    kv = [matrix(200 + i, BATCH, KEYS, 2, 16) * 4 for i in range(4)]
    kv = [t.chunk(shard.tp, 2)[rank].contiguous() for t in kv]
    shape = DecodeShape(BATCH, KEYS, shard.num_heads_q, shard.num_heads_kv, 16)
    q = torch.zeros(BATCH, 1, shard.num_heads_q, 16, dtype=torch.bfloat16)
    inputs = CallInputs(shape, SETTING, q, tuple(kv[:2]), tuple(kv[2:]), None, None, None, torch.zeros_like(q))
    more = {} if ranks is None else {"all_reduce": ranks.all_reduce}
    step = DecodeStep(shard, weights_of(shard, rank), inputs, seed=1, **more)
    step.run(lambda layer: inputs.out.copy_(reference(inputs, layer)))
    found: list[list[float]] = step.logits.float().tolist()
    return found


def half_logits(ranks: ManyRanks) -> list[list[float]]:
    return logits(ranks, HALF)


@pytest.mark.slow
def test_two_halves_of_a_model_are_the_model(tmp_path: Path) -> None:
    one, other = (torch.tensor(rows) for rows in both(tmp_path, half_logits))
    whole = torch.tensor(logits(None, WHOLE))
    assert (torch.cat([one, other], 1) - whole).norm() < 0.03 * whole.norm()


class Steps:
    """A bench that is told shapes; the second rank's output of the second shape is wrong."""

    def __init__(self, ranks: ManyRanks) -> None:
        self.ranks, self.seen = ranks, 0

    def compare(self, shape: str) -> list[tuple[float, ...]]:
        self.seen += 1

        def work() -> None:
            if shape == "second" and self.ranks.rank == 1:
                raise WrongOutputError("off by 1")

        try:
            self.ranks.agree(work)
        except WrongOutputError as error:
            raise MeasureError(MeasureErrorKind.WRONG, str(error)) from error
        return self.ranks.slowest([[self.seen + self.ranks.rank]])


def one_fails(ranks: ManyRanks) -> str:
    assert ranks.agree(lambda: 7 + ranks.rank) == 7 + ranks.rank
    with pytest.raises((RuntimeError, ZeroDivisionError)) as caught:
        ranks.agree(lambda: 1 // (1 - ranks.rank))
    return f"{type(caught.value).__name__}: {caught.value}"


def led(ranks: ManyRanks) -> list[Any]:
    if ranks.rank == 1:
        serve(ranks, lambda ranks, *arguments: Steps(ranks))
        return ["served"]
    ranks.tell(("open", "what", "ever"))
    steps, found = Steps(ranks), []
    for shape in ("first", "second", "third"):
        ranks.tell(("compare", shape))
        try:
            found.append(steps.compare(shape))
        except MeasureError as error:
            found.append((error.kind.value, str(error)))  # type: ignore[arg-type]
    ranks.tell(None)
    return found


def protocol(ranks: ManyRanks) -> tuple[Any, ...]:
    slowest = ranks.slowest([[1.0 + ranks.rank, 5.0], [3.0 - ranks.rank, 4.0]])
    return slowest, one_fails(ranks), led(ranks)


@pytest.mark.slow
def test_ranks_wait_for_each_other_and_fail_together(tmp_path: Path) -> None:
    first, second = both(tmp_path, protocol)
    assert first[0] == second[0] == [(2.0, 5.0), (3.0, 4.0)]  # the slowest counts
    assert first[1].startswith("RuntimeError: GPU 1: ") and "division" in first[1]
    assert second[1].startswith("ZeroDivisionError")
    # A shape that fails on one rank does not end the measurement.
    assert first[2] == [[(2.0,)], ("wrong", "GPU 1: off by 1"), [(4.0,)]] and second[2] == ["served"]


@pytest.mark.slow
def test_processes_are_started_and_one_that_cannot_measure_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a rank without a GPU")
    deaths: list[str] = []
    crew = Crew(2, backend="gloo", on_death=deaths.append)
    crew.tell(("open", SETTING, WHOLE, (), 1, 6))
    with pytest.raises(RuntimeError, match="GPU 1: "):
        crew.agree(lambda: None)
    crew.close()
    assert not deaths


@pytest.mark.slow
def test_a_rank_that_dies_is_noticed() -> None:
    deaths: list[str] = []
    crew = Crew(2, backend="gloo", on_death=deaths.append)
    crew._others[0].kill()
    until = time.monotonic() + 20
    while not deaths and time.monotonic() < until:
        time.sleep(0.02)
    crew.close(told=False)
    dist.destroy_process_group()
    assert deaths == ["the process of GPU 1 ended (exit code -9); what was measured is kept"]


def test_a_rank_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MeasureError, match="the process of GPU 1 ended") as caught:
        Crew(2, backend="gloo", on_death=lambda message: None)
    assert caught.value.kind is MeasureErrorKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("gpus", "nccl", "says"), [(1, True, "needs 2 GPUs, torch sees 1"), (2, False, "without NCCL")]
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, gpus: int, nccl: bool, says: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    with pytest.raises(MeasureError, match=says) as caught:
        check_gpus(2)
    assert caught.value.kind is MeasureErrorKind.UNAVAILABLE
