"""A model endpoint on loopback whose answers depend on the request alone, for tests/faults/kill_searches.py.

    python tests/faults/kill_endpoint.py PORT LOG

Each answer inserts a rule into the program of the prompt. The seed of a request is logged when its answer is sent.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def serve(port: int, log: str) -> None:
    """Serve until killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rng = random.Random(request["seed"])
            prompt = request["messages"][-1]["content"]
            program = re.search(r"```python\n(.*?)```", prompt, re.DOTALL)
            asked = program is not None  # otherwise the proposer finds out what the endpoint takes
            text = program.group(1) if program else ""
            rule = (
                f"    if shape.batch > {rng.randint(1, 8)} and shape.num_n_blocks <= {rng.randint(1, 40)}:\n"
                f"        return {rng.randint(1, 32)}, None, 0\n"
            )
            head = "def schedule(shape, gpu):\n"
            source = text.replace(head, head + rule) if rng.random() < 0.9 else "no idea"
            time.sleep(rng.random() * 0.05)
            message = {"role": "assistant", "content": f"```python\n{source}```"}
            body = json.dumps(
                {
                    "id": "x", "object": "chat.completion", "created": 0, "model": "test",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
                }
            ).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if not asked:
                return
            with Path(log).open("a") as file:
                file.write(f"{request['seed']}\n")

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
