"""The prompt queue, the proposer that uses it and the verb that works on it."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ON_SMALL, PATIENCE_S, ROOT, Command
from json_schemas import check

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.errors import UserError
from evolve.proposal import ProgramRecord, Request, Response
from evolve.proposer_config import ManualConfig
from evolve.proposers import open_proposer
from evolve.proposers.prompt_queue import QUEUE_FOLDER, NoAnswer, PromptQueue, Reply, TaskState, task_id

MESSAGES = [{"role": "system", "content": "be short"}, {"role": "user", "content": "improve §"}]
PARENT = ProgramRecord(0, "def schedule(shape, gpu):\n    return 1, None, 0\n", Evaluation(Status.OK))
CONFIG = ManualConfig(poll_s=0.01)


@pytest.fixture
def queue(tmp_path: Path) -> PromptQueue:
    return PromptQueue(tmp_path / QUEUE_FOLDER)


def request(run_dir: Path, index: int = 7) -> Request:
    return Request(index, 1, PARENT, (), "be short", "improve §", True, 5, run_dir)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


def propose(run_dir: Path, act: Callable[[PromptQueue], None], index: int = 7) -> Response:
    """Ask, act once the prompt hangs, return the answer."""

    async def both() -> Response:
        queue = PromptQueue(run_dir / QUEUE_FOLDER)
        waiting = asyncio.create_task(open_proposer(CONFIG).propose(request(run_dir, index)))
        await until(lambda: (queue.folder / f"{task_id(index)}.json").exists())
        act(queue)
        return await asyncio.wait_for(waiting, 10)

    return asyncio.run(both())


def test_an_answer_by_file_is_the_proposers_answer(tmp_path: Path) -> None:
    reply = Reply("text §\n", "some-model", "a note", 100, 20)
    answer = propose(tmp_path, lambda q: (q.answer("00007", reply), None)[1])
    assert (answer.text, answer.model, answer.note) == ("text §\n", "some-model", "a note")
    assert (answer.tokens_in, answer.tokens_out) == (100, 20)


def test_openevolves_own_manual_mode_writes_the_same_tasks_and_reads_our_answers(tmp_path: Path) -> None:
    from openevolve.config import LLMModelConfig
    from openevolve.llm.openai import OpenAILLM

    folder = tmp_path / "theirs"
    config = LLMModelConfig(name="m", manual_mode=True, max_tokens=5, retries=0)
    config._manual_queue_dir = str(folder)
    theirs: dict[str, Any] = {}

    async def their_mode() -> str:
        waiting = asyncio.create_task(OpenAILLM(config).generate_with_context("be short", MESSAGES[1:]))
        await until(lambda: any(folder.glob("*.json")))
        (path,) = folder.glob("*.json")
        theirs.update(json.loads(path.read_text()))
        PromptQueue(folder).answer(path.stem, Reply("said", "m"))
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(their_mode()) == "said"
    ours: dict[str, Any] = {}

    def look(queue: PromptQueue) -> None:
        ours.update(json.loads((queue.folder / "00007.json").read_text()))
        # An answer as OpenEvolve's tools write it: with nothing but the text.
        (queue.folder / "00007.answer.json").write_text('{"id": "00007", "answer": "hello"}')

    assert propose(tmp_path, look).model == "manual"
    assert list(ours) == list(theirs)
    assert (ours["messages"], ours["display_prompt"]) == (theirs["messages"], theirs["display_prompt"])
    assert set(theirs["meta"]) <= set(ours["meta"])


def test_a_half_written_answer_is_read_again(tmp_path: Path) -> None:
    def act(queue: PromptQueue) -> None:
        path = queue.folder / "00007.answer.json"
        path.write_text('{"answer": "hel')
        threading.Timer(0.1, lambda: path.write_text('{"answer": "hello"}')).start()

    assert propose(tmp_path, act).text == "hello"


def test_an_open_prompt_keeps_its_name_and_an_answer_in_between_is_taken(tmp_path: Path) -> None:
    async def interrupted() -> None:
        waiting = asyncio.create_task(open_proposer(CONFIG).propose(request(tmp_path)))
        await until(lambda: (tmp_path / QUEUE_FOLDER / "00007.json").exists())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(interrupted())
    queue = PromptQueue(tmp_path / QUEUE_FOLDER)
    before = queue.task("00007")
    queue.answer("00007", Reply("meanwhile"))
    assert propose(tmp_path, lambda _: None).text == "meanwhile"
    assert queue.task("00007").created_at == before.created_at
    assert len(queue.tasks()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[]", "got list"), ("{}", "got NoneType"), ('{"answer": 5}', "got int")],
)
def test_answers_that_are_none_are_reported(queue: PromptQueue, content: str, message: str) -> None:
    queue.put("a", MESSAGES, model="m", meta={})
    (queue.folder / "a.answer.json").write_text(content)
    with pytest.raises(NoAnswer, match=message):
        queue.reply("a")
    (task,) = queue.tasks()
    assert task.state is TaskState.UNREADABLE and message in task.problem


@pytest.mark.parametrize(
    "usage", [None, 5, {}, {"prompt_tokens": -1, "completion_tokens": "x"}, {"prompt_tokens": True}]
)
def test_a_strange_usage_counts_nothing(queue: PromptQueue, usage: object) -> None:
    queue.put("a", MESSAGES, model="m", meta={})
    (queue.folder / "a.answer.json").write_text(json.dumps({"answer": "x", "usage": usage, "model": 3}))
    reply = queue.reply("a")
    assert reply is not None and replace(reply, note="") == Reply("x")


def test_one_of_many_answers_wins_and_stays(queue: PromptQueue) -> None:
    queue.put("a", MESSAGES, model="m", meta={})
    won: list[str] = []

    def race(text: str) -> None:
        try:
            queue.answer("a", Reply(text))
            won.append(text)
        except UserError as error:
            assert "has an answer already" in str(error)

    threads = [threading.Thread(target=race, args=(str(i),)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reply = queue.reply("a")
    assert reply is not None and won == [reply.text]
    assert sorted(p.name for p in queue.folder.iterdir()) == ["a.answer.json", "a.json"]  # no temporary files stay


@pytest.fixture
def manual_run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `evosplit run`; what still runs when the test ends is ended, since nobody answers it any more."""
    started: list[subprocess.Popen[str]] = []

    def start(*sets: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from evolve.cli import main; main()", "run", *sets]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_run_answered_through_the_verb_survives_being_killed(
    evosplit: Command, tmp_path: Path, manual_run: Callable[..., subprocess.Popen[str]]
) -> None:
    sets = ["--set", "search.proposals=3", "--set", "search.window=2", "--set", "proposer.poll_s=0.02"]
    process = manual_run("configs/manual.yaml", *ON_SMALL, *sets)
    wait_for(lambda: len(list(tmp_path.glob(f"runs/*/{QUEUE_FOLDER}/*.json"))) == 2, process)
    check("queue", evosplit("queue", "list", "--json").json)
    check("queue", evosplit("queue", "show", 1, "--json").json)
    listed = evosplit("queue", "list", "--json").json["tasks"]
    assert [(t["id"], t["state"], t["parent"]) for t in listed] == [("00001", "open", 0), ("00002", "open", 0)]
    program = tmp_path / "answer.txt"
    stock = (ROOT / "seeds" / "fa3_stock.py").read_text()
    program.write_text(f"A rule.\n```python\n{stock.replace('num_n_blocks <= 4', 'num_n_blocks <= 1')}```\n")
    assert evosplit("queue", "answer", 1, program, "--model", "tester", "--tokens-in", 9).code == 0
    wait_for(
        lambda: list(tmp_path.glob(f"runs/*/{QUEUE_FOLDER}/*.json")) and "00003" in evosplit("queue", "list").out,
        process,
    )
    process.kill()
    process.communicate()
    names = [t["id"] for t in evosplit("queue", "list", "--json").json["tasks"] if t["state"] == "open"]
    assert names == ["00002", "00003"]
    prompts = [evosplit("queue", "show", name).out for name in names]
    assert all("### SYSTEM" in p and "### USER" in p for p in prompts)
    assert evosplit("queue", "answer", "00002", program).code == 0
    process = manual_run("--resume", "last")
    assert [evosplit("queue", "show", name).out for name in names] == prompts
    assert evosplit("queue", "answer", 3, program).code == 0
    progress = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0, progress
    assert "3/3  best #" in progress and "holdout" not in progress  # whoever answers may read it
    shown = evosplit("show", "last", "1", "--json").json
    assert (shown["answer"]["model"], shown["answer"]["tokens_in"], shown["status"]) == ("tester", 9, "ok")
    assert evosplit("show", "last", "--json").json["statuses"] == {"ok": 1, "duplicate": 2}


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["list", "--run", "none"], "no run 'none'", "evosplit run starts one"),
        (["answer", "1", "missing.txt"], "cannot be read", "standard input"),
        (["answer", "1", "empty.txt"], "is empty", "one fenced program"),
        (["answer", "1", "binary"], "not text in UTF-8", ""),
    ],
)
def test_mistakes_are_explained(
    evosplit: Command, tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    result = evosplit("queue", *arguments)
    assert result.code == 2 and message in result.err and hint in result.err


def test_runs_without_a_queue_say_so(evosplit: Command, finished_run: Any) -> None:
    result = evosplit("queue", "list", "--run", finished_run.folder)
    assert result.code == 2 and "no prompt queue" in result.err and "kind: manual" in result.err


def test_answers_come_from_standard_input_too(
    evosplit: Command, finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    run = tmp_path / "runs" / "r"
    shutil.copytree(finished_run.folder, run)
    queue = PromptQueue(run / QUEUE_FOLDER)
    queue.put("00001", MESSAGES, model="m", meta={"proposal": 1})
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert evosplit("queue", "answer", 1, "-").code == 0
    assert queue.reply("00001") == Reply("from a pipe\n")
    again = evosplit("queue", "answer", 1, tmp_path / "x")
    assert again.code == 2
    unknown = evosplit("queue", "show", 5)
    assert unknown.code == 2 and "no prompt 00005" in unknown.err


@pytest.mark.parametrize("count", [10**30, -5, 1.5, "many", True])
def test_counts_that_cannot_be_are_told_and_not_counted(tmp_path: Path, count: object) -> None:
    queue = PromptQueue(tmp_path)
    queue.put("00001", MESSAGES, model="m", meta={})
    usage = {"prompt_tokens": 7, "completion_tokens": count}
    (tmp_path / "00001.answer.json").write_text(json.dumps({"answer": "hello", "usage": usage}))
    reply = queue.reply("00001")
    assert reply is not None and (reply.text, reply.tokens_in, reply.tokens_out) == ("hello", 7, 0)
    assert reply.note.startswith("not believed: completion_tokens ")
    assert "not believed" in queue.task("00001").problem


def test_files_from_windows_are_read(tmp_path: Path) -> None:
    queue = PromptQueue(tmp_path)
    queue.put("00001", MESSAGES, model="m", meta={})
    (tmp_path / "00001.answer.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"answer": "hello"}).encode())
    assert queue.reply("00001") == Reply("hello")


def test_the_answer_to_another_prompt_is_not_taken(tmp_path: Path) -> None:
    queue = PromptQueue(tmp_path)
    queue.put("00001", MESSAGES, model="m", meta={})
    (tmp_path / "00001.answer.json").write_text(json.dumps({"id": "00002", "answer": "hello"}))
    with pytest.raises(NoAnswer, match="answer to another prompt"):
        queue.reply("00001")


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", ".."])
def test_names_stay_in_the_queue(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not the name of a prompt"):
        PromptQueue(tmp_path / "q").answer(name, Reply("hello"))
