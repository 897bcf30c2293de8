"""Proposer `manual`: a person or any program answers. Prompts and answers are files in the run folder."""

from __future__ import annotations

import asyncio
import time

from evolve.proposal import Request, Response
from evolve.proposer_config import ManualConfig
from evolve.proposers.prompt_queue import QUEUE_FOLDER, NoAnswer, PromptQueue, task_id


class ManualProposer:
    """Proposer that writes prompts to the run's queue folder and waits for answers without a limit.

    There is no state in memory: after a restart the same prompt waits under the same name, and an answer from the
    meantime is read at once.
    """

    name = "manual"

    def __init__(self, config: ManualConfig) -> None:
        """Store the poll interval, and the model name of answers without one."""
        self._config = config

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`; waits without a limit."""
        started = time.monotonic()
        queue, name = PromptQueue(request.run_dir / QUEUE_FOLDER), task_id(request.index)
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        # Parameters of the format that do not apply to a person are null, as in OpenEvolve.
        meta: dict[str, object] = dict.fromkeys(
            ("max_tokens", "max_completion_tokens", "temperature", "top_p", "reasoning_effort", "verbosity")
        )
        meta |= {"proposal": request.index, "parent": request.parent.id, "island": request.island, "diff": request.diff}
        queue.put(name, messages, model=self._config.model, meta=meta)
        while True:
            try:
                reply = queue.reply(name)
            except NoAnswer:
                reply = None  # possibly incomplete; `evosplit queue list` shows the problem
            if reply is not None:
                elapsed_s = time.monotonic() - started
                model = reply.model or self._config.model
                return Response(reply.text, model, reply.note, reply.tokens_in, reply.tokens_out, elapsed_s=elapsed_s)
            await asyncio.sleep(self._config.poll_s)

    async def aclose(self) -> None:
        """Do nothing; open prompts stay."""
