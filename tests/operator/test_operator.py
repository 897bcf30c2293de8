"""An external operator: by the command line and by MCP, with the budget kept here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from agent_runs import program, rule
from conftest import PYTHONPATH, ROOT, Command, require_sandbox
from json_schemas import check

from evolve.journal.journal import FILE_NAME, Journal

SETS = ("judge.workload=bsc-160", "proposer.evaluations=2", "proposer.turns=12", "search.proposals=2")
ON_SMALL = [x for s in SETS for x in ("--set", s)]


@pytest.fixture(autouse=True)
def sandbox() -> None:
    require_sandbox()


def turns(folder: Path) -> list[Any]:
    return Journal(folder / FILE_NAME, read_only=True).turns()


def test_a_run_by_single_commands(evosplit: Command, tmp_path: Path) -> None:
    opened = evosplit("agent", "open", *ON_SMALL, "--json")
    assert opened.code == 0, opened.err
    check("agent", opened.json)
    folder = Path(opened.json["path"])
    assert opened.json["waits"] and opened.json["proposal"] == 1
    assert "def schedule" in opened.json["brief"] and "evaluations 2 of 2" in opened.json["brief"]

    def call(tool: str, arguments: dict[str, Any], *more: str) -> dict[str, Any]:
        done = evosplit("agent", "call", folder, tool, "--args", json.dumps(arguments), *more, "--json")
        assert done.code == 0, done.err
        check("agent", done.json)
        told: dict[str, Any] = done.json
        return told

    # A draft from a file, then one by value; the third is refused whatever the operator thinks.
    (tmp_path / "draft.md").write_text(rule(1))
    assert "draft 1: score 1.0274" in call("evaluate", {}, "--draft", str(tmp_path / "draft.md"))["text"]
    assert "evaluations 0 of 2" in call("evaluate", {"draft": rule(3)})["text"]
    assert "no evaluation is left" in call("evaluate", {"draft": rule(4)})["text"]
    assert call("note", {"draft": 2, "text": "few tiles gain"})["ended"] == ""
    done = call("submit", {"draft": 2, "hypothesis": "h"}, "--model", "someone", "--tokens-in", "70")
    assert done["ended"] == "submitted" and done["committed"]["status"] == "ok" and done["committed"]["score"] > 1.03
    entry = Journal(folder / FILE_NAME, read_only=True).entry(1)
    assert entry.answer and entry.answer.model == "someone" and entry.answer.tokens_in == 70

    # The next one starts from its child and is told the note.
    brief = evosplit("agent", "brief", folder, "--json").json
    check("agent", brief)
    assert brief["parent"] == 1 and "few tiles gain (proposal 1" in brief["brief"]
    assert call("give_up", {"reason": "nothing left"})["ended"] == "blind"
    status = evosplit("agent", "status", folder, "--json").json
    check("agent", status)
    assert not status["waits"] and status["expeditions"] == {"done": 2, "wanted": 2}
    assert call("regions_left", {})["ended"] == "finished"
    assert evosplit("replay", folder).code == 0


def test_turns_bind_but_for_the_end(evosplit: Command) -> None:
    opened = evosplit("agent", "open", *ON_SMALL, "--set", "proposer.turns=2", "--json").json
    for _ in range(3):
        told = evosplit("agent", "call", opened["path"], "regions_left", "--json").json["text"]
    assert told.startswith("refused: its 2 turns are used up")
    assert len(turns(Path(opened["path"]))) == 2  # what is refused leaves no trace
    ended = evosplit("agent", "call", opened["path"], "give_up", "--args", '{"reason": "r"}', "--json").json
    assert ended["ended"] == "blind"


def test_stagnation_is_said_without_a_model(evosplit: Command) -> None:
    sets = ("--set", "proposer.evaluations=9", "--set", "proposer.stall=2")
    opened = evosplit("agent", "open", *ON_SMALL, *sets, "--json").json
    for number in (0, 1):
        draft = program(f"    x = {number}\n    return 1 if x < 0 else 0, None, 0")
        told = evosplit("agent", "call", opened["path"], "evaluate", "--args", json.dumps({"draft": draft})).out
    assert "The expedition has stalled: the same decisions came 3 times" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("agent", "call", "last", "evaluate", "--args", "x"), "not JSON"),
        (("agent", "brief", "nowhere"), "nowhere"),
        (("agent", "open", "configs/quickstart.yaml"), "no external operator"),
        (("agent", "open", "--set", "search.window=3"), "search.window"),
        (("agent", "open", "--set", "proposer.model=m"), "leave `model`"),
        (("agent", "open", "--set", "judge.measure=live"), "judged on recorded tables"),
        (("agent", "open", "--set", "constants.every=2"), "constants.every"),
    ],
)
def test_mistakes_are_told(evosplit: Command, arguments: tuple[str, ...], said: str) -> None:
    evosplit("agent", "open", *ON_SMALL)
    done = evosplit(*arguments)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


def test_tools_and_skill_are_printed(evosplit: Command) -> None:
    opened = evosplit("agent", "open", *ON_SMALL, "--json").json
    listed = evosplit("agent", "tools", opened["path"], "--json").json
    check("agent", listed)
    assert {t["name"] for t in listed["tools"]} >= {"evaluate", "curve", "submit", "give_up"}
    skill = evosplit("agent", "skill").out
    assert skill.startswith("---\nname: evosplit-operator\n")
    for line in skill.splitlines():  # every command that it names exists
        if line.startswith("    evosplit agent "):
            assert evosplit("agent", line.split()[2], "--help").code == 0


def test_the_same_by_mcp(evosplit: Command, tmp_path: Path) -> None:
    mcp = pytest.importorskip("mcp")
    folder = Path(evosplit("agent", "open", *ON_SMALL, "--json").json["path"]).absolute()
    import os

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])}
    server = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "evolve", "agent", "serve", str(folder)], env=environment, cwd=ROOT
    )

    async def operate() -> list[str]:
        said = []
        from mcp.client.stdio import stdio_client

        with (tmp_path / "stderr").open("w") as errors:
            async with mcp.Client(stdio_client(server, errlog=errors)) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert {"brief", "status", "evaluate", "submit"} <= names and "fit" not in names

                async def call(name: str, **arguments: Any) -> str:
                    result = await client.call_tool(name, arguments)
                    text: str = result.content[0].text
                    said.append(text)
                    return text

                assert "def schedule" in await call("brief")
                await call("evaluate", draft=rule(3))
                await call("evaluate", draft=rule(4))
                assert "no evaluation is left" in await call("evaluate", draft=rule(1))
                assert "shapes: Field required" in await call("decide")
                assert "ended: submitted" in await call("submit", draft=2, hypothesis="h")
                assert json.loads(await call("status"))["proposal"] == 2
        return said

    said = asyncio.run(operate())
    assert len(said) == 7 and [t.name for t in turns(folder)][:5] == ["evaluate"] * 3 + ["decide", "submit"]
    # What the server left, the command line goes on with.
    assert evosplit("agent", "status", folder, "--json").json["proposal"] == 2
