"""Runs of an agent whose model is scripted: a loopback server that calls tools, on the small recorded table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from llm_server import Script, depending, raw, serving

from evaluators.judge.judge import Judge
from evolve.agent.proposer import AgentProposer
from evolve.config import RunConfig, parse_config
from evolve.journal.journal import FILE_NAME, Journal
from evolve.search.controller import Controller

SEED = """# EVOLVE-BLOCK-START
def schedule(shape, gpu):
    return 0, None, 0


# EVOLVE-BLOCK-END
"""

Answer = Callable[[BaseHTTPRequestHandler], None]


def program(body: str) -> str:
    """A whole program in a fence."""
    return f"```python\n{SEED.replace('    return 0, None, 0', body)}```"


RULES = ((2, 4), (4, 4), (4, 14), (8, 4), (8, 14))
"""Most tiles and most blocks of `rule`: each scores more than the one before, and the first is learnt by heart."""


def rule(number: int) -> str:
    """A program that splits short rows of few tiles block by block."""
    tiles, blocks = RULES[number]
    return program(
        f"    n = shape.num_n_blocks\n    few = shape.batch * shape.num_heads_kv <= {tiles}\n"
        f"    return n if few and n >= 2 and n <= {blocks} else 0, None, 0"
    )


def calls(*made: tuple[str, dict[str, Any]], text: str = "", tokens: tuple[int, int] = (100, 20)) -> Answer:
    """An answer that calls tools."""
    found = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(made)
    ]
    message = {"role": "assistant", "content": text or None, "tool_calls": found}
    body = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "test",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }  # fmt: skip
    return raw(200, json.dumps(body).encode())


def last_tool(request: dict[str, Any]) -> str:
    """Text of the last tool call."""
    return next((m["content"] for m in reversed(request["messages"]) if m["role"] == "tool"), "")


def climbing(request: dict[str, Any]) -> Answer:
    """A model that tries one rule after the other, of an edge that the conversation and the seed decide."""
    said, turns = last_tool(request), sum(m["role"] == "assistant" for m in request["messages"])
    accepted = re.search(r"draft (\d+): score [\d.]+ \(\+0\.0*[1-9]", said)
    if turns == 0:
        return calls(("regions_left", {}), ("lineage_list", {"relatives": False}), text="Where is most left?")
    if accepted:
        return calls(
            ("note", {"text": "short rows are best split", "draft": int(accepted[1])}),
            ("submit", {"draft": int(accepted[1]), "hypothesis": "short rows gain more than the combine kernel costs"}),
        )
    return calls(("evaluate", {"draft": rule((request["seed"] + turns) % 5)}))


@contextmanager
def modelled(answer: Callable[[dict[str, Any]], Answer] = climbing) -> Iterator[tuple[str, Script]]:
    """URL of a scripted model, and what it was asked."""
    script = Script([depending(answer)])
    with serving(script) as url:
        yield url, script


def agent_config(
    url: str = "", *, proposals: int = 3, budget: dict[str, Any] | None = None, window: int = 2, **proposer: Any
) -> RunConfig:
    """A run of an agent; without an URL, of an external operator."""
    asked = {"model": "m", "base_url": url, "api_key_env": "", "backoff_s": 0.001, "timeout_s": 30}
    own = {"kind": "agent", **(asked if url else {"operator": "external"}), **proposer}
    search = {"proposals": proposals, "window": window if url else 1, "islands": 1, "parallel_proposals": 2}
    return parse_config({
        "name": "t", "proposer": own, "search": search, "budget": budget or {}, "judge": {"workload": "bsc-160"},
    })  # fmt: skip


def run(config: RunConfig, judge: Judge, folder: Path) -> AgentProposer:
    """Run to the end, or to where it stops."""
    folder.mkdir(exist_ok=True)
    proposer = AgentProposer(config)
    Controller(config, judge, proposer, folder, seeds=[SEED]).run()
    return proposer


def journal(folder: Path) -> Journal:
    """The journal of a run."""
    return Journal(folder / FILE_NAME, read_only=True)
