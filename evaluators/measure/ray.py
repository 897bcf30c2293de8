"""Workers as Ray actors, one GPU each: on the cluster that RAY_ADDRESS names, or on this machine alone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from evaluators.data.contract import Setting
from evaluators.measure.executor import Hello, Work, WorkerLost
from evaluators.measure.wire import batch_text, hello_of, setting_of, setting_row
from evaluators.measure.worker import BENCH
from evaluators.measure.worker_client import MeasureError, Trouble

GOODBYE_S = 20.0
KNOCK_S = 5.0
CONNECT_HINT = "RAY_ADDRESS names a cluster, as host:6379; without it one is started on this machine"


def first_and_last(text: str) -> str:
    """What happened and, below a remote traceback, why: a package that a node lacks is named in the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


class RayWorker:
    """The actor: `BatchWorker` behind methods that take and give text. Ray shows it one GPU."""

    def __init__(self, bench: str) -> None:
        """Load nothing yet."""
        from evaluators.measure.worker import BatchWorker

        self._worker = BatchWorker(bench)

    def hello(self, settings: list[list[Any]], seed: int) -> str:
        """`BatchWorker.hello`; trouble is an answer too."""
        import json

        from evaluators.measure.wire import hello_text

        try:
            return hello_text(self._worker.hello([setting_of(s) for s in settings], seed))
        except MeasureError as error:
            return json.dumps({"error": error.kind.value, "message": str(error)})

    def run(self, batch: str) -> str:
        """`BatchWorker.run` over a whole batch."""
        import json

        from evaluators.measure.wire import works_of

        return json.dumps(list(self._worker.run(works_of(json.loads(batch)))))

    def ask(self, setting: list[Any], request: dict[str, Any]) -> str:
        """`BatchWorker.ask`."""
        import json

        try:
            return json.dumps({"ok": self._worker.ask(setting_of(setting), dict(request))})
        except MeasureError as error:
            return json.dumps({"error": error.kind.value, "message": str(error)})


class RayChannel:
    """An actor and calls to it. A batch comes back as a whole: a message per work would cost more than it saves."""

    streams = False

    def __init__(self, actor: Any) -> None:
        """Wrap an actor; Ray may still be placing it."""
        self._actor = actor

    def _call(self, method: str, *arguments: Any) -> Any:
        import json

        import ray

        try:
            return json.loads(ray.get(getattr(self._actor, method).remote(*arguments)))
        except ray.exceptions.RayTaskError as error:
            # An error of ours: the actor lives, but what state it is in nobody knows.
            raise WorkerLost(f"the Ray worker failed in {method}: {error.cause!r}") from error
        except ray.exceptions.RayError as error:
            raise WorkerLost(f"the Ray worker ended during {method} ({first_and_last(str(error))})") from error

    def _ask(self, method: str, *arguments: Any) -> Any:
        reply = self._call(method, *arguments)
        if "error" in reply:
            raise MeasureError(Trouble(reply["error"]), reply["message"])
        return reply["ok"]

    def open(self, settings: Sequence[Setting], *, seed: int) -> Hello:
        """See `Channel.open`; waits until Ray has found the actor a GPU."""
        return hello_of(self._ask("hello", [setting_row(s) for s in settings], seed))

    def run(self, works: Sequence[Work]) -> Iterator[dict[str, Any]]:
        """See `Channel.run`."""
        yield from self._call("run", batch_text(works))

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        """See `Channel.ask`."""
        return self._ask("ask", setting_row(setting), {"op": op, **arguments})

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
    """Fail at once where nobody listens; Ray itself tries for minutes.

    Raises:
        OSError: nobody listens at `host:port`.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


class RayExecutor:
    """One actor with `num_gpus=1` per GPU of a Ray cluster.

    A worker's death is the pool's business, which asks for another actor; Ray restarts and retries nothing, for a
    retried batch would have no lease.
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
                Trouble.UNAVAILABLE, "executor ray: Ray is not installed: pip install 'evosplit[ray]'"
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
                    Trouble.UNAVAILABLE, f"executor ray: no cluster at {address} ({error}): {CONNECT_HINT}"
                ) from error
        self._actor = ray.remote(num_gpus=1, num_cpus=0, max_restarts=0, max_task_retries=0)(RayWorker)

    def seats(self) -> Sequence[str]:
        """One name per GPU that Ray knows; which GPU it will be, the worker says."""
        import ray

        total = int(ray.cluster_resources().get("GPU", 0))
        if not total:
            self.close()
            raise MeasureError(
                Trouble.UNAVAILABLE, f"executor ray: the cluster has no GPU; expected at least one: {CONNECT_HINT}"
            )
        return [f"Ray GPU {k + 1} of {total}" for k in range(total)]

    def start(self, seat: str) -> RayChannel:
        """See `Executor.start`."""
        return RayChannel(self._actor.remote(self._bench))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        if self._ours:
            ray.shutdown()
