"""Proposer `manual`: a person or any program is the model. Prompts are files of the run, answered by files."""

from __future__ import annotations

import asyncio
import time

from evolve.proposal import Request, Response
from evolve.proposer_config import ManualConfig
from evolve.proposers.prompt_queue import QUEUE_FOLDER, NoAnswer, PromptQueue, task_id


class ManualProposer:
    """Puts prompts into the run's queue folder and waits for their answers, as long as it takes.

    Nothing is kept in memory: after a restart the same prompt waits under the same name, and an answer that
    came in between is taken at once.
    """

    name = "manual"

    def __init__(self, config: ManualConfig) -> None:
        """Keep how often to look, and whom to name where an answer names nobody."""
        self._config = config

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`; waits without a limit."""
        started = time.monotonic()
        queue, name = PromptQueue(request.run_dir / QUEUE_FOLDER), task_id(request.index)
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        # Parameters of a request that the format has and a person has no use for are null, as OpenEvolve writes them.
        meta: dict[str, object] = dict.fromkeys(
            ("max_tokens", "max_completion_tokens", "temperature", "top_p", "reasoning_effort", "verbosity")
        )
        meta |= {"proposal": request.index, "parent": request.parent.id, "island": request.island, "diff": request.diff}
        queue.put(name, messages, model=self._config.model, meta=meta)
        while True:
            try:
                reply = queue.reply(name)
            except NoAnswer:
                reply = None  # perhaps half written; `evosplit queue list` says what is wrong with it
            if reply is not None:
                elapsed_s = time.monotonic() - started
                model = reply.model or self._config.model
                return Response(reply.text, model, reply.note, reply.tokens_in, reply.tokens_out, elapsed_s=elapsed_s)
            await asyncio.sleep(self._config.poll_s)

    async def aclose(self) -> None:
        """Nothing to release; open prompts stay."""
