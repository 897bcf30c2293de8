"""Workers as Ray actors, one GPU each, on the cluster of RAY_ADDRESS, or on this machine alone."""

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
    """First line of an error and, with a remote traceback, the last, which names e.g. a missing package."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


class RayWorker:
    """Actor with a `BenchServer` and one GPU."""

    def __init__(self, bench: str) -> None:
        """Create the server without opening a bench."""
        from evaluators.measure.worker_process import BenchServer

        self._server = BenchServer(bench)

    def replies(self, request: str) -> list[str]:
        """Compute all replies to a request, each as JSON."""
        return [json.dumps(reply) for reply in self._server.replies(json.loads(request))]


class RayChannel(Channel):
    """Calls to an actor. All replies of a batch return together: a message per job would be too expensive."""

    streams = False

    def __init__(self, actor: Any) -> None:
        """Wrap an actor, which Ray may not have placed yet."""
        self._actor = actor

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """Yield replies; the first request waits until Ray has a GPU for the actor; see `Channel.replies`."""
        import ray

        try:
            replies = ray.get(self._actor.replies.remote(json.dumps(request, separators=(",", ":"))))
        except ray.exceptions.RayTaskError as error:
            # An exception in our code: the actor lives, but its state is unknown.
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
            # Returns with an error once the process has ended.
            ray.get(self._actor.__ray_terminate__.remote(), timeout=GOODBYE_S)
        self.kill()


def _knock(address: str) -> None:
    """Fail at once if nothing listens at an address; Ray itself tries for minutes.

    Raises:
        OSError: nothing listens at `host:port`.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


class RayExecutor:
    """One actor with `num_gpus=1` per GPU of a Ray cluster.

    The pool replaces dead workers; Ray's own restarts and retries are off, since it knows neither deadlines of batches
    nor the job at fault.
    """

    name = "ray"

    def __init__(self, *, bench: str = BENCH, simulated_gpus: int | None = None) -> None:
        """Connect to the cluster, or start one here.

        Args:
            bench: function that opens the bench, instead of the default.
            simulated_gpus: number of GPUs to declare to a Ray started here, for tests without GPUs.

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
        # An existing connection of this process is used and left open.
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
        """One name per GPU in Ray; the worker reports the actual GPU."""
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
        """Disconnect from the cluster; a cluster that was started here ends."""
        import ray

        if self._ours:
            ray.shutdown()
