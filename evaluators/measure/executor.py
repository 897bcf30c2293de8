"""Jobs, results, and the one protocol between the pool and its workers.

A request is one JSON object with `op`: `open` (providers loaded, GPU tested), `run` (a batch of jobs) or the name of
any other method of a bench. `run` has a reply for each job, everything else one: `{"ok": ...}` or
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
        rounds: readings of each launch.
    """

    setting: Setting
    shape: DecodeShape
    decisions: tuple[AnyDecision, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """A `Job`'s outcome. Exactly one reaches the client, however often the job was run.

    Attributes:
        job: what was asked.
        uuid: the GPU that measured; empty when none could.
        reply: as of `GpuBench.measure`; None when it failed.
        error: why it failed; of kind DEADLY when several workers were lost over it, of kind LOST when no worker is
            left.
        busy_s: seconds that it kept the GPU busy.
    """

    job: Job
    uuid: str
    reply: dict[str, Any] | None
    error: MeasureError | None
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's description of itself, once its GPU passed the self-test.

    Attributes:
        device: the GPU.
        builds: kernel build by the name of each setting that was opened.
        host: name of the machine.
    """

    device: DeviceRecord
    builds: dict[str, str]
    host: str

    @property
    def model(self) -> tuple[object, ...]:
        """Equal for workers that may measure for one run: decisions depend on the GPU's model, latencies on all."""
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
"""Of a shape in a request, in this order."""


def run_request(jobs: Sequence[Job]) -> dict[str, Any]:
    """The request `run`; all jobs have the first one's setting. Rows instead of mappings: there are many of them."""
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
        streams: whether `run` yields each reply when it is made, so that a lost worker's guilty job is known.
    """

    streams: bool

    @abstractmethod
    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """Send a request; its replies, of which there are `count`.

        Raises:
            WorkerLost: before all replies were there.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once; a request that runs raises `WorkerLost`."""

    @abstractmethod
    def close(self) -> None:
        """Let the worker end by itself, and wait until it let go of its GPU."""

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        """Take the GPU, load the providers of these settings instead of earlier ones, and test them.

        Raises:
            MeasureError: of kind unavailable: nothing can be measured there, and the message says why.
            WorkerLost: the worker died over it.
        """
        request = {"op": "open", "settings": [s.as_json() for s in settings], "seed": seed, "self_test": self_test}
        found = self._ask(request)
        try:
            return WorkerInfo.from_json(found)
        except (KeyError, TypeError) as error:
            raise WorkerLost(f"the worker described itself as {str(found)[:SHOWN]!r} ({error!r})") from error

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Replies in the order of `jobs`.

        Raises:
            WorkerLost: before all replies were there.
        """
        return self.replies(run_request(jobs), len(jobs))

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        """Call any other method of a bench; shapes are given as JSON, decisions as rows.

        Raises:
            MeasureError: the worker reports a failure.
            WorkerLost: the worker died.
        """
        return self._ask({"op": op, "setting": setting.as_json(), **arguments})

    def _ask(self, request: dict[str, Any]) -> Any:
        (reply,) = self.replies(request, 1)
        return result_of(reply)


SHOWN = 120
"""Characters of a worker's words that a message repeats."""

KINDS = {kind.value for kind in MeasureErrorKind}


def reply_of(line: str) -> dict[str, Any]:
    """A reply, from the line that a worker wrote.

    Raises:
        WorkerLost: it is none; what comes behind it cannot be told apart either.
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
    """What a reply says of a job, as of `GpuBench.measure`.

    Raises:
        MeasureError: the reply is an error.
        WorkerLost: launches or rounds are missing, or a number is none that a measurement gives.
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
    """A reply's value.

    Raises:
        MeasureError: the reply is an error.
    """
    if "error" in reply:
        raise MeasureError(MeasureErrorKind(reply["error"]), reply["message"])
    return reply["ok"]


@contextlib.contextmanager
def killed_after(channel: Channel, seconds: float) -> Iterator[threading.Event]:
    """Kill a worker that takes longer than so many seconds for what is asked inside; the event says that it did."""
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
    """A place where workers run."""

    name: str

    def gpus(self) -> Sequence[str]:
        """Names of GPUs that can have a worker each, in the order in which they are to be used.

        Raises:
            MeasureError: of kind unavailable: there is no GPU, or what the executor needs is not installed.
        """
        ...

    def start(self, gpu: str) -> Channel:
        """Start a worker for a GPU; it opens nothing yet.

        Raises:
            WorkerLost: it could not be started.
        """
        ...

    def close(self) -> None:
        """Let go of everything once all channels are closed."""
        ...
