"""Proposer `openai`: any OpenAI-compatible endpoint. The key comes from the environment alone."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from evolve.config import OpenAIConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposers.base import Answer, Ask, ProposerError

MESSAGE_CHARS = 500


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
        self._openai = openai
        self._client: Any = openai.AsyncOpenAI(
            api_key=key, base_url=config.base_url, timeout=config.timeout_s, max_retries=0
        )
        self._options: dict[str, Any] = {"temperature": config.temperature, "max_tokens": config.max_tokens}

    async def propose(self, ask: Ask) -> Answer:
        """See `Proposer.propose`.

        Raises:
            ProposerError: this request failed for good; another may not.
            UserError: the key or the model is refused, as every further request would be.
        """
        started = time.monotonic()
        problem, attempt = "", 0
        while attempt <= self._config.retries:
            try:
                # The client's own timeout starts anew with each byte; a slow stream needs one over all.
                response = await asyncio.wait_for(self._request(ask), self._config.timeout_s)
                return self._answer(response, time.monotonic() - started)
            except (self._openai.AuthenticationError, self._openai.NotFoundError) as error:
                raise UserError(
                    f"{self._config.base_url} refuses model {self._config.model!r}: {self._describe(error)}",
                    hint=f"check {self._config.api_key_env}, proposer.base_url and proposer.model",
                    exit_code=EXIT_MISSING,
                ) from None
            except self._openai.BadRequestError as error:
                if self._adapt(error.param):
                    continue
                raise ProposerError(self._describe(error)) from None
            except (
                self._openai.RateLimitError,
                self._openai.APIConnectionError,
                self._openai.InternalServerError,
                self._openai.APIResponseValidationError,
                TimeoutError,
                ValueError,
                LookupError,
                AttributeError,
                TypeError,
            ) as error:
                problem = self._describe(error)
                if attempt < self._config.retries:
                    await asyncio.sleep(self._wait(attempt, error))
            except self._openai.OpenAIError as error:
                raise ProposerError(self._describe(error)) from None
            attempt += 1
        raise ProposerError(f"gave up after {self._config.retries + 1} tries; the last: {problem}")

    async def _request(self, ask: Ask) -> Any:
        extra = {"seed": ask.seed % 2**31} if self._config.seeded else {}
        return await self._client.chat.completions.create(
            model=self._config.model,
            messages=[{"role": "system", "content": ask.system}, {"role": "user", "content": ask.user}],
            **self._options,
            **extra,
        )

    def _adapt(self, parameter: str | None) -> bool:
        """Whether the request can do without what the endpoint refuses: reasoning models take other options."""
        if parameter == "max_tokens" and "max_tokens" in self._options:
            self._options["max_completion_tokens"] = self._options.pop("max_tokens")
            return True
        return parameter == "temperature" and self._options.pop("temperature", None) is not None

    def _wait(self, attempt: int, error: Exception) -> float:
        """Seconds before the next try: doubled each time, or what a busy endpoint asks for, up to a timeout."""
        growing = float(self._config.backoff_s * 2**attempt)
        if not isinstance(error, self._openai.RateLimitError):
            return growing
        try:
            asked = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            return growing
        return max(growing, min(asked, self._config.timeout_s))

    def _answer(self, response: Any, elapsed_s: float) -> Answer:
        """Read a response; anything but a non-empty text is an error worth another try."""
        text = response.choices[0].message.content
        if not isinstance(text, str) or not text.strip():
            raise ValueError("the endpoint answered with no text")
        text = text.replace(self._key, "***")
        tokens_in = int(getattr(response.usage, "prompt_tokens", None) or 0)
        tokens_out = int(getattr(response.usage, "completion_tokens", None) or 0)
        cost = tokens_in * self._config.price_per_1k_in + tokens_out * self._config.price_per_1k_out
        return Answer(text, self._config.model, "", tokens_in, tokens_out, cost / 1000, elapsed_s)

    def _describe(self, error: Exception) -> str:
        """What went wrong, without the key, which some endpoints repeat."""
        return f"{type(error).__name__}: {error}".replace(self._key, "***")[:MESSAGE_CHARS]

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.close()
