"""Parser of an endpoint's body: a completion, or the reason for none. Robust against any content."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

BELIEVED_TOKENS = 10**9
"""Largest credible token count of one call."""

BELIEVED_USD = 10_000.0
"""Largest credible price of one call."""

SHOWN_CHARS = 300


class NoCompletion(Exception):
    """A body without a completion; the message quotes the endpoint. `code` is the status that it names, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of a model; `arguments` is JSON as the model wrote it, possibly malformed."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A parsed answer of an endpoint.

    Attributes:
        text: text of the answer; may be empty.
        finish: reason of its end: `stop`, `length`, `content_filter` or the endpoint's own word.
        refusal: message of the model or the provider instead of an answer.
        tokens_in: tokens of the prompt; None without a credible count.
        tokens_out: tokens of the answer with its reasoning; None without a credible count.
        cost_usd: US dollars of the call, if the endpoint reports them.
        doubt: counts that are not credible.
    """

    text: str
    finish: str
    refusal: str
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    doubt: str
    tool_calls: tuple[ToolCall, ...] = ()


def read_completion(body: bytes, *, cost_header: str = "") -> Completion:
    """Parse the body of a 200 response.

    The body is decompressed; `cost_header` is the price of the call from a header (LiteLLM), or empty.

    Raises:
        NoCompletion: it is HTML, an error, or an unknown format.
    """
    data = _parsed(body)
    if isinstance(data, list) and data and isinstance(data[0], dict):
        data = data[0]
    if not isinstance(data, dict):
        raise NoCompletion(f"expected a JSON object, got {_shown(body)}")
    choices = data.get("choices")
    if not choices and data.get("error"):
        raise NoCompletion(*_error_of(data["error"]))
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NoCompletion(f"the body holds no choices: {_shown(body)}")
    choice = choices[0]
    if choice.get("error"):
        raise NoCompletion(*_error_of(choice["error"]))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise NoCompletion("the body's first choice holds no message")
    finish = str(choice.get("finish_reason") or "")[:40]
    text = _text_of(message.get("content"))
    tool_calls = _tool_calls(message.get("tool_calls"))
    if not text.strip() and not tool_calls and finish != "length":
        # Some servers put everything there if they cannot separate reasoning from the answer.
        text = _text_of(message.get("reasoning_content") or message.get("reasoning"))
    tokens_in, tokens_out, cost, doubt = _usage_of(data.get("usage"), cost_header)
    refusal = str(message.get("refusal") or "")[:SHOWN_CHARS]
    return Completion(text if text.strip() else "", finish, refusal, tokens_in, tokens_out, cost, doubt, tool_calls)


def _tool_calls(given: object) -> tuple[ToolCall, ...]:
    """Valid tool calls. Some servers send arguments as an object, not as text."""
    found: list[ToolCall] = []
    for call in given if isinstance(given, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            continue
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        found.append(ToolCall(str(call.get("id") or f"call_{len(found)}"), function["name"], text or "{}"))
    return tuple(found)


def error_text(body: bytes) -> str:
    """Message in the body of a failed response, without repeated parts of the request."""
    try:
        data = _parsed(body)
    except NoCompletion as error:
        return str(error)
    texts = list(_texts(data))
    return " | ".join(dict.fromkeys(texts))[: 2 * SHOWN_CHARS] or _shown(body)


def token_count(value: object) -> int | None:
    """A credible count of tokens; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= BELIEVED_TOKENS:
        return None
    return value


def _parsed(body: bytes) -> Any:
    text = body.decode("utf-8-sig", "replace").strip()
    if not text:
        raise NoCompletion("the body is empty")
    if text.startswith("<"):
        plain = " ".join(re.sub(r"<[^>]*>", " ", text[:4000]).split())
        raise NoCompletion(f"HTML came, not JSON: {plain[:SHOWN_CHARS]!r}: is a proxy or a log-in page in between?")
    if text.startswith(("data:", ":", "event:")):
        return _from_events(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoCompletion(f"the body is not JSON: {_shown(body)}") from None


def _from_events(text: str) -> Any:
    """Completion assembled from an unrequested event stream."""
    whole: dict[str, Any] = {}
    parts: list[str] = []
    for line in text.splitlines():
        payload = line.removeprefix("data:").strip()
        if not line.startswith("data:") or payload in ("", "[DONE]"):
            continue
        try:
            event = json.loads(payload)
        except (ValueError, RecursionError):
            raise NoCompletion("events came, and one of them is not JSON") from None
        if not isinstance(event, dict):
            continue
        whole |= {key: value for key, value in event.items() if value or key not in whole}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, dict) and isinstance(delta := choice.get("delta"), dict):
            parts.append(_text_of(delta.get("content")))
            whole["choices"] = [{**choice, "message": {"content": "".join(parts)}}]
    return whole


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) else p for p in content]
        return "".join(p for p in parts if isinstance(p, str))
    return ""


def _error_of(error: object) -> tuple[str, int]:
    code = error.get("code") if isinstance(error, dict) else 0
    number = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 0
    said = " | ".join(dict.fromkeys(_texts(error)))[:SHOWN_CHARS]
    return f"the endpoint says: {said or repr(error)[:SHOWN_CHARS]}", number


def _texts(data: object, depth: int = 0) -> list[str]:
    """Texts of an error body under the usual keys; `input` repeats the request and is left out."""
    if isinstance(data, str):
        return [data] if data.strip() else []
    if depth > 6:
        return []
    if isinstance(data, list):
        return [text for item in data[:8] for text in _texts(item, depth + 1)]
    if not isinstance(data, dict):
        return []
    known = (
        "error",
        "message",
        "msg",
        "detail",
        "details",
        "raw",
        "metadata",
        "loc",
        "param",
        "code",
        "status",
        "type",
    )
    found = [text for key in known for text in _texts(data.get(key), depth + 1)]
    return found + [text for key in ("retryDelay",) for text in _texts(data.get(key), depth + 1)]


def _usage_of(usage: object, cost_header: str) -> tuple[int | None, int | None, float | None, str]:
    """Tokens in and out, US dollars, and counts that are not credible."""
    given = usage if isinstance(usage, dict) else {}
    doubts = []
    counts: dict[str, int | None] = {}
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        counts[key] = token_count(given.get(key))
        if given.get(key) is not None and counts[key] is None:
            doubts.append(f"{key} {str(given[key])[:40]}")
    tokens_in, tokens_out, total = counts.values()
    if total and tokens_in is not None:
        # Some endpoints count reasoning in the total, but not in the answer.
        tokens_out = max(tokens_out or 0, total - tokens_in)
    cost = None
    for value in (given.get("cost"), cost_header):
        try:
            number = float(value) if isinstance(value, str | int | float) and value != "" else None
        except (ValueError, OverflowError):
            number = math.nan
        if number is None:
            continue
        if 0 <= number <= BELIEVED_USD:
            cost = number
            break
        doubts.append(f"cost {str(value)[:40]}")
    # Every call has tokens: zeros mean that they were not counted.
    return tokens_in or None, tokens_out or None, cost, ", ".join(doubts)


def _shown(body: bytes) -> str:
    return repr(body[:SHOWN_CHARS].decode("utf-8", "replace"))
