"""The process that owns one GPU: requests are lines of JSON on stdin, replies lines on what was stdout."""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from typing import Any, TextIO

from evaluators.executors.wire import hello_text, setting_of, works_of
from evaluators.executors.worker import BENCH, BatchWorker
from evaluators.gpu_lock import GpuLockedError, hold
from evaluators.gpu_worker import MeasureError, Trouble


def _read(requests: TextIO, into: queue.SimpleQueue[str]) -> None:
    """Pass requests on; the end of input is the end of the controller, and so of this process, even amid a batch.

    Otherwise a worker whose GPU hangs would outlive a killed controller and keep the GPU.
    """
    for line in requests:
        into.put(line)
    os._exit(0)


def _error(error: MeasureError) -> str:
    return json.dumps({"error": error.kind.value, "message": str(error)})


def serve(lines: queue.SimpleQueue[str], replies: TextIO, worker: BatchWorker, uuid: str) -> None:
    """Answer requests for good; `uuid` is locked before a library touches the GPU."""
    while True:
        request: dict[str, Any] = json.loads(lines.get())
        if "batch" in request:
            for reply in worker.run(works_of(request)):
                replies.write(json.dumps(reply) + "\n")
                replies.flush()
            continue
        try:
            if "hello" in request:
                if uuid:
                    hold(uuid)
                text = hello_text(worker.hello([setting_of(s) for s in request["hello"]], request["seed"]))
            else:
                setting = setting_of(request.pop("setting"))
                text = json.dumps({"ok": worker.ask(setting, request)})
        except MeasureError as error:
            text = _error(error)
        except (GpuLockedError, OSError) as error:
            text = _error(MeasureError(Trouble.UNAVAILABLE, str(error)))
        replies.write(text + "\n")
        replies.flush()


def main() -> None:
    """Entry point of the process. Libraries print to stdout; replies go to a copy of it that they cannot see."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", default=BENCH)
    parser.add_argument("--uuid", default="")
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    serve(lines, replies, BatchWorker(options.bench), options.uuid)


if __name__ == "__main__":
    main()
