"""Contract of every proposer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import seed
from llm_server import Script, reply, serving

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, Journal
from evolve.proposal import ProgramRecord, Request, Response
from evolve.proposer_config import ManualConfig, OfflineConfig, OpenAIConfig, ReplayConfig
from evolve.proposers import Proposer, ProposerError, open_proposer
from evolve.proposers.prompt_queue import QUEUE_FOLDER, PromptQueue, Reply, TaskState
from evolve.search.responses import program_from

PROGRAM = seed("fa3_stock").replace("num_n_blocks <= 4", "num_n_blocks <= 1")
TEXT = f"A rule.\n```python\n{PROGRAM}```"


class ProposerContract:
    """Subclasses open one kind; every test runs on each."""

    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path, asks: list[Request]) -> AsyncIterator[Proposer]:
        """A proposer that can answer these requests."""
        raise NotImplementedError
        yield

    @pytest.fixture
    def asks(self, judge: Judge, tmp_path: Path) -> list[Request]:
        parent = ProgramRecord(0, seed("fa3_stock"), judge.evaluate(seed("fa3_stock")))
        return [
            Request(i, i % 2, parent, (parent,), "system §", f"user {i}", False, 1000 + i, tmp_path) for i in (1, 2, 3)
        ]

    def answers(self, tmp_path: Path, asks: list[Request]) -> list[Response]:
        async def all_at_once() -> list[Response]:
            async with self.opened(tmp_path, asks) as proposer:
                return await asyncio.wait_for(asyncio.gather(*(proposer.propose(request) for request in asks)), 30)

        return asyncio.run(all_at_once())

    def test_answers_hold_a_program(self, tmp_path: Path, asks: list[Request]) -> None:
        for request, answer in zip(asks, self.answers(tmp_path, asks), strict=True):
            assert "def schedule" in program_from(answer.text, request.parent.source)

    def test_answers_name_who_gave_them_and_count_nothing_below_zero(self, tmp_path: Path, asks: list[Request]) -> None:
        for answer in self.answers(tmp_path, asks):
            assert answer.model
            assert min(answer.tokens_in, answer.tokens_out, answer.cost_usd, answer.elapsed_s) >= 0

    def test_the_same_request_gets_the_same_answer(self, tmp_path: Path, asks: list[Request]) -> None:
        first, second = (
            [replace(a, elapsed_s=0.0) for a in self.answers(tmp_path, order)] for order in (asks, asks[::-1])
        )
        assert first == second[::-1]

    def test_a_request_can_be_given_up(self, tmp_path: Path, asks: list[Request]) -> None:
        async def cancelled() -> None:
            async with self.opened(tmp_path, asks) as proposer:
                waiting = asyncio.create_task(proposer.propose(asks[0]))
                await asyncio.sleep(0)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait_for(waiting, 10)
                assert (await asyncio.wait_for(proposer.propose(asks[1]), 30)).text

        asyncio.run(cancelled())

    def test_it_can_be_closed_unused(self, tmp_path: Path, asks: list[Request]) -> None:
        async def unused() -> str:
            async with self.opened(tmp_path, asks) as proposer:
                return proposer.name

        assert asyncio.run(unused())


class TestOffline(ProposerContract):
    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path, asks: list[Request]) -> AsyncIterator[Proposer]:
        proposer = open_proposer(OfflineConfig())
        yield proposer
        await proposer.aclose()


class TestOpenAI(ProposerContract):
    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_KEY", "k")

    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path, asks: list[Request]) -> AsyncIterator[Proposer]:
        with serving(Script([reply(TEXT)])) as url:
            proposer = open_proposer(OpenAIConfig(model="m", base_url=url, api_key_env="TEST_KEY"))
            yield proposer
            await proposer.aclose()


class TestManual(ProposerContract):
    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path, asks: list[Request]) -> AsyncIterator[Proposer]:
        queue = PromptQueue(tmp_path / QUEUE_FOLDER)

        async def somebody() -> None:
            while True:
                for task in queue.tasks():
                    if task.state is TaskState.OPEN:
                        queue.answer(task.id, Reply(TEXT, "somebody", tokens_in=5))
                await asyncio.sleep(0.01)

        person = asyncio.create_task(somebody())
        proposer = open_proposer(ManualConfig(poll_s=0.01))
        yield proposer
        person.cancel()
        await proposer.aclose()


def recorded(folder: Path, asks: list[Request], *, error: str = "") -> ReplayConfig:
    """A run that was asked the same."""
    path = folder / FILE_NAME
    if not path.exists():
        journal = Journal(path)
        for request in asks:
            row = {
                "id": request.index,
                "kind": "proposal",
                "island": request.island,
                "parent": request.parent.id,
                "diff": request.diff,
            }
            row |= {"inspirations": [r.id for r in request.inspirations], "seed": request.seed, "asked_model": ""}
            journal.ask(row | {"system": request.system, "user": request.user})
            spent = Response("", "m", "", 7, 8, 0.5) if error else Response(TEXT, "m", "note", 5, 6, 0.25, 1.0)
            journal.answer(request.index, spent, error)
        journal.close()
    return ReplayConfig(run=str(folder))


class TestReplay(ProposerContract):
    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path, asks: list[Request]) -> AsyncIterator[Proposer]:
        proposer = open_proposer(recorded(tmp_path, sorted(asks, key=lambda a: a.index)))
        yield proposer
        await proposer.aclose()

    def ask_once(self, config: ReplayConfig, request: Request) -> Response:
        return asyncio.run(open_proposer(config).propose(request))

    def test_answers_are_the_recorded_ones_to_the_last_field(self, tmp_path: Path, asks: list[Request]) -> None:
        assert self.ask_once(recorded(tmp_path, asks), asks[0]) == Response(TEXT, "m", "note", 5, 6, 0.25, 1.0)

    def test_a_recorded_failure_fails_again_at_the_same_cost(self, tmp_path: Path, asks: list[Request]) -> None:
        with pytest.raises(ProposerError, match="gave up") as caught:
            self.ask_once(recorded(tmp_path, asks, error="gave up"), asks[0])
        assert caught.value.spent is not None and caught.value.spent.cost_usd == 0.5

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"user": "user 1\nmore"}, r"user message differs in line 2: recorded nothing, now 'more'"),
            ({"system": "other"}, r"system message differs in line 1: recorded 'system §', now 'other'"),
            ({"user": "user 1\n"}, "differs in its line ends"),
            ({"island": 0}, "island was 1, now it is 0"),
            ({"seed": 5}, "seed was 1001, now it is 5"),
            ({"inspirations": ()}, r"inspirations was \(0,\), now it is \(\)"),
            ({"diff": True}, "diff was False"),
        ],
    )
    def test_another_request_is_refused_where_it_parts(
        self, tmp_path: Path, asks: list[Request], change: dict[str, object], message: str
    ) -> None:
        with pytest.raises(UserError, match=message) as caught:
            self.ask_once(recorded(tmp_path, asks), replace(asks[0], **change))  # type: ignore[arg-type]
        assert caught.value.exit_code == 1 and "proposal 1" in str(caught.value)

    def test_another_parent_is_refused(self, tmp_path: Path, asks: list[Request]) -> None:
        other = ProgramRecord(4, PROGRAM, Evaluation(Status.OK))
        with pytest.raises(UserError, match="parent was 0, now it is 4"):
            self.ask_once(recorded(tmp_path, asks), replace(asks[0], parent=other))

    def test_prompts_alone_may_differ_when_told_so(self, tmp_path: Path, asks: list[Request]) -> None:
        config = recorded(tmp_path, asks).model_copy(update={"prompts": "any"})
        assert self.ask_once(config, replace(asks[0], user="rewritten")).text == TEXT
        with pytest.raises(UserError, match="island"):
            self.ask_once(config, replace(asks[0], island=5))

    def test_the_end_of_the_recording_is_said(self, tmp_path: Path, asks: list[Request]) -> None:
        with pytest.raises(UserError, match="no answer to proposal 9") as caught:
            self.ask_once(recorded(tmp_path, asks), replace(asks[0], index=9))
        assert "search.proposals" in caught.value.hint

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no journal"):
            open_proposer(ReplayConfig(run=str(tmp_path)))
