"""Check that a rule cuts a sequence the same way in every batch."""

from __future__ import annotations

from conftest import SMALL_TABLE, Command, require_sandbox

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import open_judge
from evaluators.scoring.invariance import batch_variance

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
BY_LENGTH = "def schedule(shape, gpu):\n    return 8, None, 0\n\n\ndef blocks_per_split(work, gpu):\n    return 6\n"
BY_BATCH = BY_LENGTH.replace("return 6", "return 6 if work.batch == 1 else 9")


def told(*rows: tuple[DecodeShape, Decision]) -> str:
    cases = [Case(f"c{n}", shape, Split.TRAIN) for n, (shape, _) in enumerate(rows)]
    return batch_variance(
        cases, {c.id: canonical_launch(s, SETTING, d, Gpu()) for c, (s, d) in zip(cases, rows, strict=True)}
    )


def test_the_same_sequence_in_two_batches() -> None:
    one, four = DecodeShape(1, 4096, 8, 1), DecodeShape(4, 4096, 8, 1)
    ragged = DecodeShape(2, 9000, 8, 1, live_seqlens=(100, 4096))
    six = Decision(8, None, 0, 6)
    assert told((one, six), (four, six), (ragged, six)) == ""
    assert "4096 keys" in told((one, six), (ragged, Decision(8, None, 0, 9)))
    assert "unsplit" in told((one, six), (four, Decision(1)))
    assert "for 64" in told((one, six), (four, Decision(40, None, 0, 6)))  # another combine kernel adds otherwise
    assert told((one, six), (DecodeShape(4, 4096, 16, 2), Decision(1))) == ""  # other heads are another model


def test_a_judge_that_wants_invariance_refuses_the_rest(evosplit: Command) -> None:
    require_sandbox()
    judge = open_judge(SMALL_TABLE, batch_invariant=True)
    assert judge.description["batch_invariant"] == "true"
    found = judge.evaluate(BY_BATCH)
    assert found.status is Status.UNSAFE and "not batch-invariant" in found.message
    named = {c.id: c.split for c in judge.cases if c.id in found.message.replace(":", " ").split()}
    assert named and set(named.values()) == {Split.TRAIN}
    assert "batch_invariant" not in open_judge(SMALL_TABLE).description
    assert "batch-invariant: no" in evosplit("evaluate", "seeds/fa3_stock.py", "--table", SMALL_TABLE).out
    assert "batch-invariant: yes" in evosplit("evaluate", "seeds/always_1.py", "--table", SMALL_TABLE).out
