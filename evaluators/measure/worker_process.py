"""The process that owns the GPU: reads requests from stdin, writes replies to what was stdout."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from evaluators.data.contract import Cache, Decision, Mode, Setting
from evaluators.measure.worker_client import MeasureError, Trouble, shape_of


def _setting(data: dict[str, Any]) -> Setting:
    return Setting(data["provider"], Mode(data["mode"]), Cache(data["cache"]), data["page_size"], data["dtype"])


def _decision(data: dict[str, Any]) -> Decision:
    return Decision(**data)


def answer(request: dict[str, Any], state: dict[str, Any], open_bench: Callable[[Setting, int], Any]) -> Any:
    """Do what one request asks; `state` keeps the open bench between requests."""
    op = request.pop("op")
    if op == "open":
        state.pop("bench", None)
        state["bench"] = open_bench(_setting(request["setting"]), request["seed"])
        return state["bench"].describe()
    bench = state["bench"]
    if "shape" in request:
        request["shape"] = shape_of(request["shape"])
    for name in ("decision", "one", "other"):
        if name in request:
            request[name] = _decision(request[name])
    if "decisions" in request:
        request["decisions"] = [_decision(d) for d in request["decisions"]]
    return getattr(bench, op)(**request)


def lines_of(requests: TextIO) -> Iterator[str]:
    """Lines as they come; the end of input is the end of the controller, and so of this process, even amid a request.

    Otherwise a worker whose GPU hangs would outlive a killed controller and keep the GPU.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def serve(requests: Iterable[str], replies: TextIO, open_bench: Callable[[Setting, int], Any]) -> None:
    """Answer requests until they end; trouble is an answer too, and the loop goes on."""
    state: dict[str, Any] = {}
    for line in requests:
        try:
            reply: dict[str, Any] = {"ok": answer(json.loads(line), state, open_bench)}
        except MeasureError as error:
            reply = {"error": error.kind.value, "message": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if reply.get("error") == Trouble.LOST.value:
            return


def main() -> None:
    """Entry point of the process; its argument, if any, names another build of the kernels.

    Libraries print to stdout; replies go to a copy of it that they cannot see.
    """
    from evaluators.measure.bench import open_bench

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    library = sys.argv[1] if len(sys.argv) > 1 else ""
    serve(lines_of(sys.stdin), replies, lambda setting, seed: open_bench(setting, seed, library))


if __name__ == "__main__":
    main()
