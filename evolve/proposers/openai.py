"""Proposer `openai`: any OpenAI-compatible endpoint. The key comes from the environment alone."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from evolve.config import OpenAIConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposers.base import Answer, Ask, ProposerError


class OpenAIProposer:
    """Asks a chat-completions endpoint, with retries and growing waits."""

    name = "openai"

    def __init__(self, config: OpenAIConfig) -> None:
        """Open a client.

        Raises:
            UserError: the environment variable for the key is not set.
        """
        import openai

        key = os.environ.get(config.api_key_env)
        if not key:
            raise UserError(
                f"the environment variable {config.api_key_env} is not set",
                hint=f"export {config.api_key_env}=... (any text for servers that ask for no key)",
                exit_code=EXIT_MISSING,
            )
        self._config = config
        self._key = key
        self._retryable = (
            openai.RateLimitError,
            openai.APIConnectionError,
            openai.InternalServerError,
            openai.APIResponseValidationError,
        )
        self._failure = openai.OpenAIError
        self._client: Any = openai.AsyncOpenAI(
            api_key=key, base_url=config.base_url, timeout=config.timeout_s, max_retries=0
        )

    async def propose(self, ask: Ask) -> Answer:
        """See `Proposer.propose`."""
        started = time.monotonic()
        problem = ""
        for attempt in range(self._config.retries + 1):
            if attempt:
                await asyncio.sleep(self._config.backoff_s * 2 ** (attempt - 1))
            try:
                # The client's own timeout starts anew with each byte; a slow stream needs one over all.
                response = await asyncio.wait_for(self._request(ask), self._config.timeout_s)
                return self._answer(response, time.monotonic() - started)
            except (*self._retryable, TimeoutError, ValueError, LookupError, AttributeError, TypeError) as error:
                problem = self._without_key(f"{type(error).__name__}: {error}")
            except self._failure as error:
                raise ProposerError(self._without_key(f"{type(error).__name__}: {error}")) from None
        raise ProposerError(f"gave up after {self._config.retries + 1} tries; the last: {problem}")

    async def _request(self, ask: Ask) -> Any:
        extra = {"seed": ask.seed % 2**31} if self._config.seeded else {}
        return await self._client.chat.completions.create(
            model=self._config.model,
            messages=[{"role": "system", "content": ask.system}, {"role": "user", "content": ask.user}],
            temperature=self._config.temperature,
            max_tokens=self._config.max_tokens,
            **extra,
        )

    def _answer(self, response: Any, elapsed_s: float) -> Answer:
        """Read a response; anything but a non-empty text is an error worth another try."""
        text = response.choices[0].message.content
        if not isinstance(text, str) or not text.strip():
            raise ValueError("the endpoint answered with no text")
        usage = response.usage
        tokens_in = int(usage.prompt_tokens) if usage else 0
        tokens_out = int(usage.completion_tokens) if usage else 0
        cost = tokens_in * self._config.price_per_1k_in + tokens_out * self._config.price_per_1k_out
        return Answer(text, self._config.model, "", tokens_in, tokens_out, cost / 1000, elapsed_s)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***")[:500]

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.close()
