"""Latencies from a pool that another process holds, and that several runs share."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.evaluation import Measuring
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.latencies.latency import Latency, UnrecordedError
from evaluators.latencies.store import Bench, StoreError
from evaluators.latencies.table import Cell
from evaluators.measure.live_source import LiveCount, LiveSource
from evaluators.measure.worker_client import MeasureError, Trouble


class SharedSource(LiveSource):
    """Latencies of one setting on the GPUs of a shared pool. Thread-safe; several callers may measure at once."""

    def __init__(self, path: Path, run: str, setting: Setting) -> None:
        """Ask what is measured on.

        Args:
            path: socket of a `PoolServer`.
            run: label under which the server knows this run.
            setting: what is measured.

        Raises:
            MeasureError: the server is gone.
        """
        self._path, self._run = path, run
        opened = self._request({"op": "open"})
        super().__init__(Bench(DeviceRecord(**opened["device"]), opened["build"], setting))
        self._remembered = self._looked_up = 0  # launches known to this process; known to the server when asked

    def prepare(self, wanted: Sequence[tuple[Case, Decision]]) -> Measuring | None:
        """Have measured what neither memory nor store knows; returns when GPUs were busy for this run.

        Raises:
            MeasureError: no worker is left, a baseline cannot be measured, or the server is gone.
            StoreError: the store cannot be written.
        """
        asked: list[tuple[str, Decision]] = []
        known: dict[str, int] = {}
        with self._lock:
            for case, decisions in self.by_case(wanted):
                missing = self.known.missing(case, decisions)
                self._remembered += len(decisions) - len(missing)
                self.count.known = self._remembered + self._looked_up
                if missing:
                    known[case.id] = len(self.known.of(case))
                    asked += [(case.id, d) for d in missing.values()]
        if not asked:
            return None
        rows = [[i, [d.num_splits, d.pack_gqa, d.sm_margin, d.blocks_per_split]] for i, d in asked]
        reply = self._request({"op": "prepare", "wanted": rows, "known": known})
        with self._lock:
            self._take(reply)
        return Measuring(**reply["measured"]) if reply["measured"] else None

    def _take(self, reply: Mapping[str, Any]) -> None:
        for case_id, found in reply["found"].items():
            # Replies to two threads may overtake each other; what is known of a shape only grows.
            if len(found["rounds_us"]) > len(self.known.by_launch.get(case_id, {})):
                self.known.cells[case_id] = tuple(
                    Cell(Decision(**decision), launch, error, tuple(latencies))
                    for decision, launch, error, latencies in found["cells"]
                )
                self.known.by_launch[case_id] = {k: Latency(tuple(v)) for k, v in found["rounds_us"].items()}
        for case_id, launch, status, message in reply["failed"]:
            self.known.failed[case_id, launch] = UnrecordedError(message, Status(status))
        count = LiveCount(**reply["count"])
        if count.measured >= self.count.measured:
            self._looked_up = max(self._looked_up, count.known)
            count.known = self._remembered + self._looked_up
            self.count = count

    def _request(self, request: Mapping[str, Any]) -> Any:
        line = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(str(self._path))
                connection.sendall(json.dumps({"run": self._run, **request}).encode() + b"\n")
                with connection.makefile("rb") as file:
                    line = file.readline()
        except OSError:
            pass
        if not line.endswith(b"\n"):
            raise MeasureError(Trouble.LOST, "the process that holds the GPUs is gone; what was measured is kept")
        reply = json.loads(line)
        if "error" not in reply:
            return reply["ok"]
        if reply["error"] == "store":
            raise StoreError(reply["message"])
        raise MeasureError(Trouble(reply["error"]), reply["message"])
