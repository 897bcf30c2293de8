"""Workers as Ray actors, one GPU each: on the cluster that RAY_ADDRESS names, or on this machine alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Channel, reply_of
from evaluators.measure.worker_process import BENCH

GOODBYE_S = 20.0
KNOCK_S = 5.0
CONNECT_HINT = "RAY_ADDRESS names a cluster, as host:6379; without it one is started on this machine"


def first_and_last(text: str) -> str:
    """What happened and, below a remote traceback, why: a package that a node lacks is named in the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


class RayWorker:
    """The actor: a `BenchServer`. Ray shows it one GPU."""

    def __init__(self, bench: str) -> None:
        """Load nothing yet."""
        from evaluators.measure.worker_process import BenchServer

        self._server = BenchServer(bench)

    def replies(self, request: str) -> list[str]:
        """All replies to a request, each as JSON."""
        return [json.dumps(reply) for reply in self._server.replies(json.loads(request))]


class RayChannel(Channel):
    """An actor and calls to it. A batch comes back as a whole: a message per job would cost more than it saves."""

    streams = False

    def __init__(self, actor: Any) -> None:
        """Wrap an actor; Ray may still be placing it."""
        self._actor = actor

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """See `Channel.replies`; the first request waits until Ray has found the actor a GPU."""
        import ray

        try:
            replies = ray.get(self._actor.replies.remote(json.dumps(request, separators=(",", ":"))))
        except ray.exceptions.RayTaskError as error:
            # An error of ours: the actor lives, but what state it is in no one knows.
            raise WorkerLost(f"the Ray worker failed in {request['op']}: {error.cause!r}") from error
        except ray.exceptions.RayError as error:
            raise WorkerLost(f"the Ray worker ended during {request['op']} ({first_and_last(str(error))})") from error
        yield from map(reply_of, replies)

    def kill(self) -> None:
        """See `Channel.kill`."""
        import ray

        ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        """See `Channel.close`."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            # Answered with an error once the process is gone.
            ray.get(self._actor.__ray_terminate__.remote(), timeout=GOODBYE_S)
        self.kill()


def _knock(address: str) -> None:
    """Fail at once where no one listens; Ray itself tries for minutes.

    Raises:
        OSError: no one listens at `host:port`.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


class RayExecutor:
    """One actor with `num_gpus=1` per GPU of a Ray cluster.

    A worker's death is the pool's business, which asks for another actor; Ray restarts and retries nothing: it knows
    neither deadlines of batches nor which job is to blame.
    """

    name = "ray"

    def __init__(self, *, bench: str = BENCH, simulated_gpus: int | None = None) -> None:
        """Connect to the cluster, or start one here.

        Args:
            bench: replaces what measures.
            simulated_gpus: GPUs that a Ray started here believes in, where there are none.

        Raises:
            MeasureError: of kind unavailable.
        """
        try:
            import ray
        except ImportError as error:
            raise MeasureError(
                MeasureErrorKind.UNAVAILABLE, "executor ray: Ray is not installed: pip install 'evosplit[ray]'"
            ) from error
        self._bench = bench
        # Where another part of this process has connected already, that connection is used and left open.
        self._ours = not ray.is_initialized()
        if self._ours:
            address = os.environ.get("RAY_ADDRESS") or "local"
            extra: dict[str, Any] = {}
            if address == "local":
                extra = {"include_dashboard": False}
                if simulated_gpus is not None:
                    extra |= {"num_gpus": simulated_gpus}
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level="error", **extra)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise MeasureError(
                    MeasureErrorKind.UNAVAILABLE, f"executor ray: no cluster at {address} ({error}): {CONNECT_HINT}"
                ) from error
        self._actor = ray.remote(num_gpus=1, num_cpus=0, max_restarts=0, max_task_retries=0)(RayWorker)

    def gpus(self) -> Sequence[str]:
        """One name per GPU that Ray knows; which GPU it will be, the worker says."""
        import ray

        total = int(ray.cluster_resources().get("GPU", 0))
        if not total:
            self.close()
            raise MeasureError(
                MeasureErrorKind.UNAVAILABLE,
                f"executor ray: the cluster has no GPU; expected at least one: {CONNECT_HINT}",
            )
        return [f"Ray GPU {k + 1} of {total}" for k in range(total)]

    def start(self, gpu: str) -> RayChannel:
        """See `Executor.start`."""
        return RayChannel(self._actor.remote(self._bench))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        if self._ours:
            ray.shutdown()
