"""The process that owns one GPU: requests are lines of JSON on stdin, replies lines on what was stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from evaluators.measure.gpu_lock import GpuLockedError, hold
from evaluators.measure.wire import hello_text, setting_of, works_of
from evaluators.measure.worker import BENCH, BatchWorker
from evaluators.measure.worker_client import MeasureError, Trouble
from evaluators.measure.worker_process import lines_of


def _error(error: MeasureError) -> str:
    return json.dumps({"error": error.kind.value, "message": str(error)})


def serve(lines: Iterator[str], replies: TextIO, worker: BatchWorker, uuid: str) -> None:
    """Answer requests for good; `uuid` is locked before a library touches the GPU."""
    for line in lines:
        request: dict[str, Any] = json.loads(line)
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
    serve(lines_of(sys.stdin), replies, BatchWorker(options.bench), options.uuid)


if __name__ == "__main__":
    main()
