"""The machinery of `evosplit compare` with a scripted model: no language model, so it says nothing of operators.

    python results/operators/scripted.py -o FOLDER [--seeds 5] [--amount 24]

A server on loopback answers as an endpoint would. Its "model" moves one of three numbers of a small rule, of the parent
where it has no tools, of its best draft so far where it has them, and submits once its evaluations are used up.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evolve.cli.agents.compare import compare_command

CHOICES = {"tiles": (1, 2, 4, 8, 16, 24), "blocks": (4, 6, 9, 12, 14, 16), "least": (2, 3, 4)}
RULE = """```python
# EVOLVE-BLOCK-START
def schedule(shape, gpu):
    few = shape.batch * shape.num_heads_kv <= {tiles} and shape.num_n_blocks <= {blocks}
    return shape.num_n_blocks if few and shape.num_n_blocks >= {least} else 0, None, 0


# EVOLVE-BLOCK-END
```"""
NUMBERS = re.compile(
    r"<= (\d+) and shape\.num_n_blocks <= (\d+)\s+return shape\.num_n_blocks if few and shape\.num_n_blocks >= (\d+)"
)


def moved(text: str, rng: random.Random) -> str:
    """A rule with one number other than the last rule in a text has it; any rule where there is none."""
    found = NUMBERS.findall(text.replace("\\n", "\n"))
    numbers = {name: rng.choice(values) for name, values in CHOICES.items()}
    if found:
        kept = rng.sample(list(CHOICES), 2)
        numbers |= {name: int(value) for name, value in zip(CHOICES, found[-1], strict=True) if name in kept}
    return RULE.format(**numbers)


def answer(request: dict[str, Any]) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Text and calls of tools."""
    messages = request["messages"]
    rng = random.Random(f"{request.get('seed')}:{len(messages)}")
    parent = str(messages[1]["content"])
    if "tools" not in request:
        if "diagnosis" in str(messages[0]["content"]):
            return '{"diagnosis": "scripted", "dead_ends": [], "directions": ["other numbers"]}', []
        return moved(parent.split("How to read this")[0], rng), []
    told = [str(m["content"]) for m in messages if m["role"] == "tool"]
    scores = {int(n): float(s) for text in told for n, s in re.findall(r"^draft (\d+): score ([\d.]+)", text, re.M)}
    refused = len([text for text in told if text.startswith("refused:")])
    ranked = sorted(scores, key=lambda n: -scores[n])
    if told and "evaluations 0 of" in told[-1]:
        if refused < len(ranked):
            return "", [("submit", {"draft": ranked[refused], "hypothesis": "scripted: numbers of a small rule"})]
        return "", [("give_up", {"reason": "no draft passes the gate"})]
    drafts = [
        json.loads(call["function"]["arguments"])["draft"]
        for m in messages for call in m.get("tool_calls", []) if call["function"]["name"] == "evaluate"
    ]  # fmt: skip
    best = next((d for d in drafts if ranked and f"draft {ranked[0]}:" in told[drafts.index(d)]), parent)
    return "", [("evaluate", {"draft": moved(best, rng)})]


class Handler(BaseHTTPRequestHandler):
    """Chat completions."""

    def do_POST(self) -> None:
        """Answer one request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, calls = answer(request)
        made = [
            {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for n, (name, arguments) in enumerate(calls)
        ]
        message = {"role": "assistant", "content": text, **({"tool_calls": made} if made else {})}
        tokens = {"prompt_tokens": len(json.dumps(request)) // 4, "completion_tokens": 60}
        body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": tokens})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--amount", type=float, default=24)
    parser.add_argument("--workload", default="llama31-70b")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sets = [
        f"proposer.base_url=http://127.0.0.1:{server.server_port}/v1", "proposer.model=scripted",
        "proposer.api_key_env=''", "proposer.evaluations=6", "proposer.tokens=null", "budget.tokens=null",
        "judge.setting=fa3_fwd-static-cold", f"judge.workload={options.workload}", "search.islands=1",
        "budget.prices={scripted: {input: 0, output: 0}}",
    ]  # fmt: skip
    compare_command(
        Path("configs/agent.yaml"), sets, options.output, operators="oneshot,agent,session,parametrised",
        equal="evaluations", amount=options.amount, seeds=range(options.seeds), added=[],
        label="a scripted model, no language model: the machinery alone, nothing about operators",
        runs_dir=Path("runs"), as_json=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
