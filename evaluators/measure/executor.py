"""What moves between the pool and its workers, and what an executor must provide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluators.data.contract import Decision, DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.measure.worker_client import MeasureError


@dataclass(frozen=True, slots=True)
class Work:
    """Launches of one shape, measured together in the same rounds on one GPU.

    Attributes:
        setting: how the calls reach the kernel.
        shape: the decode call.
        decisions: one per canonical launch, spelled out; the stock decision comes first.
        rounds: readings of each launch.
    """

    setting: Setting
    shape: DecodeShape
    decisions: tuple[Decision, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one `Work`. Exactly one reaches the client, however often the work was run.

    Attributes:
        work: what was asked.
        uuid: the GPU that measured; empty when none could.
        reply: as `Worker.measure` replies; None when it failed.
        trouble: why it failed; of kind DEADLY when several workers were lost over it, of kind LOST when
            no worker is left.
    """

    work: Work
    uuid: str
    reply: dict[str, Any] | None
    trouble: MeasureError | None


@dataclass(frozen=True, slots=True)
class Hello:
    """What a worker says of itself once its GPU passed the self-test.

    Attributes:
        device: the GPU.
        builds: kernel build by the name of each setting that was opened.
        host: name of the machine.
    """

    device: DeviceRecord
    builds: dict[str, str]
    host: str

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for workers that may measure for one run: decisions depend on the GPU's model, latencies on all."""
        d = self.device
        return d.name, d.num_sms, d.l2_bytes, d.driver, tuple(sorted(self.builds.items()))


class WorkerLost(Exception):
    """The worker died, was killed, or its GPU stopped answering; the message says what is known."""


class Channel(Protocol):
    """A connection to one worker. One request at a time; `kill` may come from any thread at any time.

    Attributes:
        streams: whether `run` yields each reply when it is made, so that a lost worker's guilty work is known.
    """

    streams: bool

    def open(self, settings: Sequence[Setting], *, seed: int) -> Hello:
        """Take the GPU, load providers, test them.

        Raises:
            MeasureError: of kind unavailable: nothing can be measured there, and the message says why.
            WorkerLost: the worker died over it.
        """
        ...

    def run(self, works: Sequence[Work]) -> Iterator[dict[str, Any]]:
        """Replies in the order of `works`, each `{"ok": reply}` or `{"error": kind, "message": text}`.

        Raises:
            WorkerLost: before all replies were there.
        """
        ...

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        """Any other request of `evaluators.measure.worker_client.Worker`, as plain data.

        Raises:
            MeasureError: the worker reports trouble.
            WorkerLost: the worker died.
        """
        ...

    def kill(self) -> None:
        """End the worker at once; a request under way raises `WorkerLost`."""
        ...

    def close(self) -> None:
        """Let the worker end by itself, and wait until it let go of its GPU."""
        ...


class Executor(Protocol):
    """Where workers come from."""

    name: str

    def seats(self) -> Sequence[str]:
        """Names of the places that can hold a worker, one per GPU, in the order in which they are to be used.

        Raises:
            MeasureError: of kind unavailable: there is no GPU, or what the executor needs is not installed.
        """
        ...

    def start(self, seat: str) -> Channel:
        """Start a worker in a seat; it opens nothing yet.

        Raises:
            WorkerLost: it could not be started.
        """
        ...

    def close(self) -> None:
        """Let go of everything once all channels are closed."""
        ...
