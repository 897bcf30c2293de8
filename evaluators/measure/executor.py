"""Jobs, results, and the protocol between the pool and its workers.

A request is one JSON object with `op`: `open` (providers loaded, GPU tested), `run` (a batch of jobs) or the name of
any other method of a bench. `run` has a reply for each job, every other request has one: `{"ok": ...}` or
`{"error": kind, "message": text}`, for a job with `busy_s`. A channel carries them to a worker: a pipe to a process, or
calls to a Ray actor.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.targets.registry import target_of


@dataclass(frozen=True, slots=True)
class Job:
    """Launches of one shape, measured together in the same rounds on one GPU.

    Attributes:
        setting: how the calls reach the kernel.
        shape: the decode call.
        decisions: one per canonical launch, resolved; the stock decision comes first.
        rounds: number of readings of each launch.
    """

    setting: Setting
    shape: DecodeShape
    decisions: tuple[AnyDecision, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a `Job`. Exactly one reaches the client, however often the job runs.

    Attributes:
        job: job that was run.
        uuid: GPU that measured; empty if none could.
        reply: result of `GpuBench.measure`; None if it failed.
        error: reason of a failure, of kind DEADLY if several workers were lost during the job, of kind LOST if no
            worker is left.
        busy_s: seconds of GPU time.
    """

    job: Job
    uuid: str
    reply: dict[str, Any] | None
    error: MeasureError | None
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Description of a worker whose GPU has passed the self-test.

    Attributes:
        device: the GPU.
        builds: kernel build by setting name, for each open setting.
        host: name of the machine.
    """

    device: DeviceRecord
    builds: dict[str, str]
    host: str

    @property
    def model(self) -> tuple[object, ...]:
        """Identity that workers of one run must share: decisions depend on the GPU's model, latencies on all."""
        d = self.device
        return d.name, d.num_sms, d.l2_bytes, d.driver, tuple(sorted(self.builds.items()))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> WorkerInfo:
        """Inverse of `as_json`."""
        return WorkerInfo(DeviceRecord(**data["device"]), data["builds"], data["host"])


SHAPE_FIELDS = tuple(f.name for f in fields(DecodeShape))
"""Fields of a shape in a request, in order."""


def run_request(jobs: Sequence[Job]) -> dict[str, Any]:
    """Request `run` for jobs with the same setting, in rows instead of mappings, to be short."""
    rows = []
    for job in jobs:
        s = job.shape
        shape = [getattr(s, name) for name in SHAPE_FIELDS]
        rows.append([shape, [d.as_row() for d in job.decisions], job.rounds])
    return {"op": "run", "setting": jobs[0].setting.as_json(), "jobs": rows}


def requested_jobs(request: dict[str, Any]) -> list[Job]:
    """Inverse of `run_request`."""
    setting = Setting.from_json(request["setting"])
    jobs, target = [], target_of(setting)
    for shape_fields, decisions, rounds in request["jobs"]:
        shape = DecodeShape.from_json(dict(zip(SHAPE_FIELDS, shape_fields, strict=True)))
        jobs.append(Job(setting, shape, tuple(map(target.from_row, decisions)), rounds))
    return jobs


class Channel(ABC):
    """A connection to one worker. One request at a time; `kill` may come from any thread at any time.

    Attributes:
        streams: True if `run` yields each reply at once, so that the job that lost a worker is known.
    """

    streams: bool

    @abstractmethod
    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """Send a request and yield its `count` replies.

        Raises:
            WorkerLost: the worker ended before the last reply.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once; a running request raises `WorkerLost`."""

    @abstractmethod
    def close(self) -> None:
        """End the worker gracefully, and wait until it has released its GPU."""

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        """Claim the GPU, load the providers of these settings instead of earlier ones, and test them.

        Raises:
            MeasureError: of kind unavailable: nothing can be measured there; the message gives the reason.
            WorkerLost: the worker died.
        """
        request = {"op": "open", "settings": [s.as_json() for s in settings], "seed": seed, "self_test": self_test}
        found = self._ask(request)
        try:
            return WorkerInfo.from_json(found)
        except (KeyError, TypeError) as error:
            raise WorkerLost(f"the worker described itself as {str(found)[:SHOWN]!r} ({error!r})") from error

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Yield replies in the order of `jobs`.

        Raises:
            WorkerLost: the worker ended before the last reply.
        """
        return self.replies(run_request(jobs), len(jobs))

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        """Call another method of the bench, with shapes as JSON and decisions as rows.

        Raises:
            MeasureError: the worker reports a failure.
            WorkerLost: the worker died.
        """
        return self._ask({"op": op, "setting": setting.as_json(), **arguments})

    def _ask(self, request: dict[str, Any]) -> Any:
        (reply,) = self.replies(request, 1)
        return result_of(reply)


SHOWN = 120
"""Longest quotation of a worker's reply in a message, in characters."""

KINDS = {kind.value for kind in MeasureErrorKind}


def reply_of(line: str) -> dict[str, Any]:
    """Parse a reply from a line of a worker's output.

    Raises:
        WorkerLost: not a reply; later lines cannot be matched to requests either.
    """
    reply: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        reply = json.loads(line)
    if isinstance(reply, dict):
        error = reply.get("error")
        if "ok" in reply and error is None:
            return reply
        if isinstance(error, str) and error in KINDS and isinstance(reply.get("message"), str):
            return reply
    raise WorkerLost(f"the worker wrote {line.strip()[:SHOWN]!r}, expected a reply in JSON")


def measured_of(reply: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measurement in the reply to a job, as returned by `GpuBench.measure`.

    Raises:
        MeasureError: the reply is an error.
        WorkerLost: launches or rounds are missing, or a number is not credible.
    """
    found = result_of(reply)
    try:
        cells, times = found["cells"], (found["total_s"], found["check_s"], found["sm_clock_mhz"])
        latencies = [cell["latencies_us"] for cell in cells]
        numbers = [*times, *(cell["error"] for cell in cells), *(v for row in latencies for v in row)]
        good = isinstance(found["slowed"], bool) and [len(row) for row in latencies] == [job.rounds] * len(
            job.decisions
        )
        good = good and all(type(v) in (int, float) and 0 <= v < math.inf for v in numbers)
        good = good and all(v > 0 for row in latencies for v in row)
    except (KeyError, TypeError) as error:
        raise WorkerLost(f"the worker's measurement lacks {error}: {str(found)[:SHOWN]!r}") from error
    if not good:
        raise WorkerLost(
            f"the worker's measurement is none: expected {len(job.decisions)} launches of {job.rounds} positive, "
            f"finite latencies, got {str(found)[:SHOWN]!r}"
        )
    measured: dict[str, Any] = found
    return measured


def result_of(reply: dict[str, Any]) -> Any:
    """Value of a reply.

    Raises:
        MeasureError: the reply is an error.
    """
    if "error" in reply:
        raise MeasureError(MeasureErrorKind(reply["error"]), reply["message"])
    return reply["ok"]


@contextlib.contextmanager
def killed_after(channel: Channel, seconds: float) -> Iterator[threading.Event]:
    """Kill a worker if the body takes longer than `seconds`; the event is then set."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        channel.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class Executor(Protocol):
    """Starter of workers on GPUs."""

    name: str

    def gpus(self) -> Sequence[str]:
        """Names of GPUs that can have a worker each, in the order of use.

        Raises:
            MeasureError: of kind unavailable: there is no GPU, or a package is missing.
        """
        ...

    def start(self, gpu: str) -> Channel:
        """Start a worker for a GPU, without opening settings.

        Raises:
            WorkerLost: it could not be started.
        """
        ...

    def close(self) -> None:
        """Release all resources, after all channels are closed."""
        ...
