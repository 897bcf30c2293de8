"""Proposer `openai`: any OpenAI-compatible endpoint. Keys come from the environment alone."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any

from evolve.config import ModelConfig, OpenAIConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposal import Request, Response
from evolve.proposers.base import EndpointError, ProposerError

MESSAGE_CHARS = 500
KEY_CHARS = 8
"""Shorter keys are placeholders that local servers ask for, such as `x`: no secrets, and parts of words."""


@dataclass(slots=True)
class Model:
    """One model and how to ask it; `options` change when the endpoint refuses one."""

    config: ModelConfig
    key: str
    client: Any
    options: dict[str, Any]


@dataclass(slots=True)
class Tries:
    """What the tries of one proposal have used, by the endpoint's own count."""

    tokens_in: int = 0
    tokens_out: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, usage: Any) -> None:
        """Count a response, also one that holds no text: it is billed."""
        self.tokens_in += int(getattr(usage, "prompt_tokens", None) or 0)
        self.tokens_out += int(getattr(usage, "completion_tokens", None) or 0)

    def answer(self, text: str, model: str, note: str = "") -> Response:
        """An answer that carries the use of all tries."""
        return Response(text, model, note, self.tokens_in, self.tokens_out, elapsed_s=time.monotonic() - self.started)


class OpenAIProposer:
    """Asks chat-completions endpoints, with retries and growing waits."""

    name = "openai"

    def __init__(self, config: OpenAIConfig) -> None:
        """Open the clients.

        Raises:
            UserError: an environment variable for a key is not set.
        """
        self._config = config
        self._models = {m.name: self._open(m) for m in config.all_models()}

    def _open(self, model: ModelConfig) -> Model:
        import openai

        self._openai = openai
        variable = str(model.api_key_env)
        key = os.environ.get(variable)
        if not key:
            raise UserError(
                f"the environment variable {variable} is not set",
                hint=f"export {variable}=... (any text for servers that ask for no key)",
                exit_code=EXIT_MISSING,
            )
        client = openai.AsyncOpenAI(api_key=key, base_url=model.base_url, timeout=self._config.timeout_s, max_retries=0)
        options = {"temperature": model.temperature, "max_tokens": self._config.max_tokens}
        return Model(model, key, client, options)

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`.

        Raises:
            EndpointError: no readable answer after all tries.
            ProposerError: this request is refused for good; another may not be.
            UserError: the key or the model is refused, as every further request would be.
        """
        model = self._models[request.model] if request.model else next(iter(self._models.values()))
        tries, problem, attempt = Tries(), "", 0
        while attempt <= self._config.retries:
            try:
                # The client's own timeout starts anew with each byte; a slow stream needs one over all.
                response = await asyncio.wait_for(self._request(request, model), self._config.timeout_s)
                tries.add(getattr(response, "usage", None))
                return self._answer(response, model, tries)
            except (
                self._openai.AuthenticationError,
                self._openai.PermissionDeniedError,
                self._openai.NotFoundError,
            ) as error:
                raise UserError(
                    f"{model.config.base_url} refuses model {model.config.name!r}: {_describe(error, model)}",
                    hint=f"check {model.config.api_key_env}, proposer.base_url and proposer.model",
                    exit_code=EXIT_MISSING,
                ) from None
            except self._openai.BadRequestError as error:
                if self._adapt(model, error.param):
                    continue
                raise ProposerError(_describe(error, model), spent=tries.answer("", model.config.name)) from None
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
                problem = _describe(error, model)
                if attempt < self._config.retries:
                    await asyncio.sleep(self._wait(attempt, error))
            except self._openai.OpenAIError as error:
                raise ProposerError(_describe(error, model), spent=tries.answer("", model.config.name)) from None
            attempt += 1
        raise EndpointError(
            f"gave up after {self._config.retries + 1} tries; the last: {problem}",
            spent=tries.answer("", model.config.name),
        )

    async def _request(self, request: Request, model: Model) -> Any:
        extra = {"seed": request.seed % 2**31} if self._config.seeded else {}
        return await model.client.chat.completions.create(
            model=model.config.name,
            messages=[{"role": "system", "content": request.system}, {"role": "user", "content": request.user}],
            **model.options,
            **extra,
        )

    def _adapt(self, model: Model, parameter: str | None) -> bool:
        """Whether the request can do without what the endpoint refuses: reasoning models take other options."""
        if parameter == "max_tokens" and "max_tokens" in model.options:
            model.options["max_completion_tokens"] = model.options.pop("max_tokens")
            return True
        return parameter == "temperature" and model.options.pop("temperature", None) is not None

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

    def _answer(self, response: Any, model: Model, tries: Tries) -> Response:
        """Read a response; anything but a non-empty text is an error worth another try."""
        choice = response.choices[0]
        text = choice.message.content
        if not isinstance(text, str) or not text.strip():
            raise ValueError("the endpoint answered with no text")
        text = _without_key(text, model)
        cut = getattr(choice, "finish_reason", None) == "length"
        return tries.answer(text, model.config.name, "cut off at max_tokens" if cut else "")

    async def aclose(self) -> None:
        """Close the clients' connections."""
        for model in self._models.values():
            await model.client.close()


def _describe(error: Exception, model: Model) -> str:
    """What went wrong, without the key, which some endpoints repeat."""
    return _without_key(f"{type(error).__name__}: {error}", model)[:MESSAGE_CHARS]


def _without_key(text: str, model: Model) -> str:
    """Text without the key, should the endpoint have repeated it."""
    return text.replace(model.key, "***") if len(model.key) >= KEY_CHARS else text
