"""Proposer `openai`: any OpenAI-compatible endpoint. Keys come only from the environment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from evolve.errors import EXIT_BUDGET, EXIT_MISSING
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import CUT_OFF, Calls, EndpointCall, Request, Response
from evolve.proposer_config import EndpointConfig
from evolve.proposers.base import EndpointError, EndpointStopped, ProposerError, RequestRefused
from evolve.proposers.completion import Completion, NoCompletion, error_text, read_completion
from evolve.proposers.endpoint import BodyTooLarge, Endpoint, HttpReply, Unreachable
from evolve.proposers.refusals import RefusalKind, Wire, adapted, asked_wait_s, verdict

MESSAGE_CHARS = 500
MAX_ADAPTATIONS = 8
"""Adaptations of one request before it fails."""

COST_HEADER = "x-litellm-response-cost"
MODERATED = ("content_filter", "safety", "refusal", "prohibited_content", "recitation")
"""Finish reasons of withheld answers."""

CORRECTION = """That answer cannot be used: $problem.
Answer again, in the form that was asked for and nothing else."""


class _Busy(Exception):
    """A retry may succeed; `wait_s` is the delay that the endpoint requested, or 0."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class _Conversation:
    """Messages of a conversation; with tools, an answer is JSON of its text and tool calls."""

    system: str
    messages: list[dict[str, Any]]
    seed: int
    tools: Sequence[dict[str, Any]] = ()

    @property
    def tokens(self) -> int:
        calls = [m["tool_calls"] for m in self.messages if "tool_calls" in m]
        texts = (self.system, *(m["content"] or "" for m in self.messages))
        other = json.dumps([*self.tools, *calls]) if self.tools else ""
        return sum(map(estimate_tokens, texts)) + estimate_tokens(other)


@dataclass(slots=True)
class _Tries:
    """Usage summed over the tries of one request."""

    calls: Calls
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def end(self, call: EndpointCall) -> None:
        """Add a call, also one without a text, which may be billed."""
        self.calls.end(call)
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        self.cost_usd += call.cost_usd or 0.0

    def answer(self, text: str, model: str, note: str = "") -> Response:
        """Response with the usage of all tries."""
        elapsed_s = time.monotonic() - self.started
        return Response(text, model, note, self.tokens_in, self.tokens_out, self.cost_usd, elapsed_s)


class OpenAIProposer:
    """Client of chat-completions endpoints, with retries and exponential waits."""

    name = "openai"

    def __init__(self, config: EndpointConfig) -> None:
        """Open the clients.

        Raises:
            UserError: an environment variable for a key is not set or malformed, or one for proxies is wrong.
        """
        self._config = config
        self._endpoints = {m.name: Endpoint(m, config.timeout_s) for m in config.all_models()}

    async def prepare(self, kept: str, calls: Calls) -> str:
        """Probe each model once for the parameters that it accepts, unless done before; see `Prepares.prepare`."""
        known: dict[str, Any] = json.loads(kept) if kept else {}
        for endpoint in self._endpoints.values():
            found = known.get(endpoint.name, {})
            if found.get("configured") == _described(endpoint, endpoint.configured):
                endpoint.wire = Wire(**found["wire"])
                continue
            await self.check(endpoint.name, calls)
        return json.dumps(
            {
                e.name: {"configured": _described(e, e.configured), "wire": asdict(e.wire)}
                for e in self._endpoints.values()
            }
        )

    async def check(self, name: str, calls: Calls) -> list[str]:
        """Make one short call to a model, and adapt requests to its refusals.

        Returns:
            Adaptations, as text.

        Raises:
            EndpointStopped: it refuses finally, or cannot be reached.
        """
        endpoint = self._endpoints[name]
        conversation = _Conversation(
            "You are asked whether you are there.", [{"role": "user", "content": "Answer: yes"}], 0
        )
        try:
            await self._answered(endpoint, conversation, _Tries(calls), any_answer=True)
        except RequestRefused as error:
            _stop(endpoint, str(error), "see docs/proposers.md for this kind of endpoint", EXIT_MISSING)
        except EndpointError as error:
            _stop(endpoint, str(error), "see whether it is up, and proposer.base_url", EXIT_BUDGET)
        return endpoint.configured.differences(endpoint.wire)

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`.

        Raises:
            EndpointError: no readable answer after all retries.
            RequestRefused: this request is refused finally.
            EndpointStopped: the key, the model or the account is refused, which would affect every request.
        """
        endpoint = self._endpoints[request.model] if request.model else next(iter(self._endpoints.values()))
        messages: list[dict[str, Any]] = [{"role": "user", "content": request.user}]
        if request.correction:
            told = CORRECTION.replace("$problem", request.correction.problem)
            messages.append({"role": "assistant", "content": request.correction.text})
            messages.append({"role": "user", "content": told})
        tries = _Tries(request.calls)
        text, note = await self._answered(endpoint, _Conversation(request.system, messages, request.seed), tries)
        return tries.answer(text, endpoint.name, note)

    async def converse(
        self,
        request: Request,
        system: str,
        messages: list[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
    ) -> Response:
        """Get the model's next answer in a conversation, on the account of a request.

        `request` names the model and has the account. Messages are in the form of chat completions; with tools the
        answer is JSON with `content` and `tool_calls`.

        Raises:
            ProposerError: as in `propose`.
        """
        endpoint = self._endpoints[request.model] if request.model else next(iter(self._endpoints.values()))
        tries = _Tries(request.calls)
        text, note = await self._answered(endpoint, _Conversation(system, messages, request.seed, tools), tries)
        return tries.answer(text, endpoint.name, note)

    async def _answered(
        self, endpoint: Endpoint, conversation: _Conversation, tries: _Tries, *, any_answer: bool = False
    ) -> tuple[str, str]:
        """Text and note of the answer, with retries; with `any_answer` the text may be empty."""
        problem = ""
        for attempt in range(self._config.retries + 1):
            try:
                return await self._adapting(endpoint, conversation, tries, any_answer=any_answer)
            except _Busy as busy:
                problem = str(busy)
                growing = self._config.backoff_s * 2**attempt
                if busy.wait_s:
                    # Other requests to this model would be refused, too.
                    endpoint.hold(max(growing, min(busy.wait_s, self._config.timeout_s)))
                elif attempt < self._config.retries:
                    await asyncio.sleep(growing)
            except ProposerError as error:
                error.spent = tries.answer("", endpoint.name)
                raise
        raise EndpointError(
            f"gave up after {self._config.retries + 1} tries; the last: {problem}",
            spent=tries.answer("", endpoint.name),
        )

    async def _adapting(
        self, endpoint: Endpoint, conversation: _Conversation, tries: _Tries, *, any_answer: bool
    ) -> tuple[str, str]:
        """Make one try, repeated without each parameter that the endpoint refuses."""
        text = ""
        for _ in range(MAX_ADAPTATIONS + 1):
            wire = endpoint.wire
            reply = await self._call(endpoint, conversation, wire, tries)
            if reply.status == 200:
                return self._read(endpoint, conversation, wire, reply, tries, any_answer=any_answer)
            text = error_text(reply.body)
            shown = endpoint.mask(f"HTTP {reply.status}: {text}")[:MESSAGE_CHARS]
            if reply.status in (400, 422):
                # Another request may have adapted the form in the meantime.
                found = adapted(wire, text, conversation.tokens)
                answered = endpoint.wire != wire or found is not None
                tries.end(EndpointCall(endpoint.name, error=shown))
                if answered:
                    endpoint.wire = found if found is not None and endpoint.wire == wire else endpoint.wire
                    continue
            else:
                tries.end(EndpointCall(endpoint.name, error=shown, answered=False))
            _raise(endpoint, reply.status, shown, text, reply.headers)
        raise RequestRefused(f"refused whatever was left out: {endpoint.mask(text)[:MESSAGE_CHARS]}")

    async def _call(self, endpoint: Endpoint, conversation: _Conversation, wire: Wire, tries: _Tries) -> HttpReply:
        await endpoint.turn()
        tokens = conversation.tokens
        key = await tries.calls.begin(endpoint.name, tokens_in=tokens, tokens_out=wire.limit)
        try:
            return await endpoint.post(
                conversation.system,
                conversation.messages,
                wire,
                seed=conversation.seed,
                prompt_tokens=tokens,
                idempotency_key=key,
                tools=conversation.tools,
            )
        except Unreachable as error:
            message = str(error)[:MESSAGE_CHARS]
            tries.end(EndpointCall(endpoint.name, error=message, answered=False))
            raise _Busy(message) from None
        except BodyTooLarge as error:
            # The cost is unknown: assume the upper bound.
            tries.end(EndpointCall(endpoint.name, error=str(error), tokens_in=tokens, tokens_out=wire.limit))
            raise RequestRefused(str(error)) from None

    def _read(
        self,
        endpoint: Endpoint,
        conversation: _Conversation,
        wire: Wire,
        reply: HttpReply,
        tries: _Tries,
        *,
        any_answer: bool,
    ) -> tuple[str, str]:
        """Text and note of a response, which is stored in any case."""
        try:
            found = read_completion(reply.body, cost_header=reply.headers.get(COST_HEADER, ""))
        except NoCompletion as error:
            said = endpoint.mask(str(error))[:MESSAGE_CHARS]
            tries.end(EndpointCall(endpoint.name, error=said, answered=False))
            if error.code:
                _raise(endpoint, error.code, said, said, reply.headers)
            raise _Busy(said) from None
        text, problem = endpoint.mask(found.text), ""
        if conversation.tools and (text or found.tool_calls):
            answer = {"content": text, "tool_calls": [asdict(call) for call in found.tool_calls]}
            text = endpoint.mask(json.dumps(answer, ensure_ascii=False))
        if not text and not any_answer:
            problem = endpoint.mask(_why_no_text(found, wire))[:MESSAGE_CHARS]
        call = _counted(found, conversation.tokens, wire, endpoint.name, text=text, problem=problem)
        tries.end(call)
        if not problem:
            return text, call.note
        if found.finish == "length" or found.refusal or found.finish in MODERATED:
            raise RequestRefused(problem)
        raise _Busy(problem)

    async def aclose(self) -> None:
        """Close the connections of all clients."""
        for endpoint in self._endpoints.values():
            await endpoint.aclose()


def _described(endpoint: Endpoint, wire: Wire) -> dict[str, Any]:
    return {"base_url": endpoint.config.base_url, **asdict(wire)}


def _counted(found: Completion, prompt_tokens: int, wire: Wire, model: str, *, text: str, problem: str) -> EndpointCall:
    """Convert a completion to a call, with estimates in place of counts that are not credible."""
    notes = [CUT_OFF] if found.finish == "length" and text else []
    if found.doubt:
        notes.append(f"not believed: {found.doubt}")
    tokens_in, tokens_out = found.tokens_in, found.tokens_out
    if tokens_in is None or (tokens_out is None and text):
        notes.append("tokens estimated")
    if tokens_in is None:
        tokens_in = prompt_tokens
    if tokens_out is None:
        tokens_out = estimate_tokens(text) if found.finish != "length" else wire.limit
    return EndpointCall(model, text, "; ".join(notes), problem, tokens_in, tokens_out, found.cost_usd)


def _why_no_text(found: Completion, wire: Wire) -> str:
    if found.finish == "length":
        return (
            f"the answer ended at {wire.limit_name} = {wire.limit} before any text, in the model's reasoning: raise "
            "proposer.max_tokens, or lower proposer.reasoning_effort"
        )
    if found.refusal:
        return f"the model refused: {found.refusal}"
    if found.finish in MODERATED:
        return f"the answer was withheld (finish_reason {found.finish})"
    return f"the endpoint answered with no text (finish_reason {found.finish or 'not given'})"


def _raise(endpoint: Endpoint, status: int, shown: str, text: str, headers: dict[str, str]) -> NoReturn:
    """Raise the error of a failed response.

    Raises:
        EndpointStopped: every further request would fail.
        RequestRefused: this request would fail again.
        _Busy: a retry may succeed.
    """
    found = verdict(status, text)
    if found is RefusalKind.STOP:
        money = status == 402 or status == 429 or "credit" in text.lower()
        hint = "see the account's balance" if money else (
            f"check {endpoint.config.api_key_env or 'the headers'}, proposer.base_url and proposer.model"
        )  # fmt: skip
        _stop(endpoint, shown, hint, EXIT_BUDGET if money else EXIT_MISSING)
    if found is RefusalKind.REFUSED:
        raise RequestRefused(shown)
    raise _Busy(shown, asked_wait_s(headers, text))


def _stop(endpoint: Endpoint, why: str, hint: str, exit_code: int) -> NoReturn:
    raise EndpointStopped(
        f"{endpoint.config.base_url} refuses model {endpoint.name!r}: {why}"
        if exit_code == EXIT_MISSING
        else f"{endpoint.config.base_url} does not answer for model {endpoint.name!r}: {why}",
        hint=hint,
        exit_code=exit_code,
    )
