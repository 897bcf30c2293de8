"""Classification of failed responses: retry, change the request, fail this request, or stop the run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

LEAST_ANSWER_TOKENS = 256
"""Smallest useful limit for the answer's tokens."""


class RefusalKind(StrEnum):
    """Reaction to a failed response."""

    BUSY = "busy"
    """A retry may succeed: too many requests, an overloaded or broken server."""
    REFUSED = "refused"
    """This request fails, unless it can be sent without the refused part."""
    STOP = "stop"
    """All requests fail, because of the key, the model or the account."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Form of requests to one model, adapted to refusals, and stored with the run.

    Attributes:
        temperature: sampling temperature; None is not sent.
        limit_name: name of the parameter for the longest answer.
        limit: tokens of the longest answer.
        seeded: True if the proposal's seed is sent.
        merged: True if the system message is sent as the beginning of the user's.
        context: limit on tokens of prompt and answer together, if the endpoint named one; otherwise 0.
    """

    temperature: float | None
    limit_name: str
    limit: int
    seeded: bool
    merged: bool = False
    context: int = 0

    def options(self, seed: int, prompt_tokens: int) -> dict[str, Any]:
        """Keys of a request in this form."""
        limit = self.limit
        if self.context:
            limit = max(1, min(limit, self.context - prompt_tokens))
        sent: dict[str, Any] = {self.limit_name: limit}
        if self.temperature is not None:
            sent["temperature"] = self.temperature
        if self.seeded:
            sent["seed"] = seed % 2**31
        return sent

    def differences(self, other: Wire) -> list[str]:
        """Differences to another form of requests, as text."""
        said = []
        if self.limit_name != other.limit_name:
            said.append(f"{self.limit_name} is sent as {other.limit_name}")
        if self.limit != other.limit:
            said.append(f"answers of at most {other.limit} tokens instead of {self.limit}")
        if self.temperature is not None and other.temperature is None:
            said.append("no temperature")
        if self.seeded and not other.seeded:
            said.append("no seed")
        if other.merged and not self.merged:
            said.append("the system message in front of the user's")
        if other.context and not self.context:
            said.append(f"prompt and answer within {other.context} tokens")
        return said


def verdict(status: int, text: str) -> RefusalKind:
    """Classify a response with an error status.

    `status` is that of HTTP, or the one that a body names; `text` is the message of the endpoint.
    """
    said = text.lower()
    if status in (401, 402, 404) or (status == 403 and not re.search(r"moderat|flagged|safety|policy", said)):
        return RefusalKind.STOP
    if 300 <= status < 400:
        return RefusalKind.STOP
    if re.search(
        r"insufficient_quota|credit balance|insufficient (?:balance|credit)|api key not valid|invalid api key", said
    ):
        return RefusalKind.STOP
    if status in (408, 409, 425, 429) or status >= 500:
        return RefusalKind.BUSY
    return RefusalKind.REFUSED


def adapted(wire: Wire, text: str, prompt_tokens: int) -> Wire | None:
    """Form of requests without the refused part; None if it is essential.

    `text`, the message of the endpoint, is searched for names of parameters, since there is no standard key;
    `prompt_tokens` are estimated.
    """
    said = text.lower()
    context = re.search(r"(?:maximum )?context (?:length|window|size)\D{0,40}?(\d{3,8})", said)
    if context and not wire.context:
        # The endpoint's own count of the prompt is exact.
        counted = re.search(r"\(?(\d+) (?:tokens )?(?:in|from) the (?:messages|input|prompt)|(\d+) input tokens", said)
        exact = int(next(filter(None, counted.groups()))) if counted else 0
        room = int(context[1]) - max(exact, prompt_tokens)
        return replace(wire, context=int(context[1])) if room >= LEAST_ANSWER_TOKENS else None
    if _names(said, wire.limit_name) or _names(said, "max_tokens") or _names(said, "max_completion_tokens"):
        most = re.search(
            r"(?:at most|maximum(?: \w+){0,4}|less than or equal to|up to|<=|no more than) ?(?:is |of )?(\d{2,7})", said
        )
        if most and LEAST_ANSWER_TOKENS <= int(most[1]) < wire.limit:
            return replace(wire, limit=int(most[1]))
        other = "max_completion_tokens" if wire.limit_name == "max_tokens" else "max_tokens"
        # Switch back only if the other name was not refused before.
        if other == "max_completion_tokens" or "unrecognized" in said or "unknown" in said or "extra" in said:
            return replace(wire, limit_name=other)
        return None
    if wire.temperature is not None and _names(said, "temperature"):
        return replace(wire, temperature=None)
    if wire.seeded and _names(said, "seed"):
        return replace(wire, seeded=False)
    if not wire.merged and re.search(
        r"system.{0,30}(role|message|instruction|prompt)|role.{0,30}system|developer instruction", said
    ):
        return replace(wire, merged=True)
    return None


def _names(text: str, parameter: str) -> bool:
    return re.search(rf"(?<![a-z_]){parameter}(?![a-z_])", text) is not None


def asked_wait_s(headers: Mapping[str, str], text: str) -> float:
    """Delay in seconds that a busy endpoint requests, in any of the usual forms; 0 without one."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds:
        return milliseconds / 1000
    given = headers.get("retry-after", "")
    seconds = _number(given)
    if seconds:
        return seconds
    if given:
        try:
            return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            pass
    # Google's RetryInfo ("34s"), and sentences of OpenAI's and Google's.
    said = re.search(
        r"(?:retry|try again) in (?:(\d+)m)?(\d+(?:\.\d+)?) ?(ms|s)\b|\b()(\d+(?:\.\d+)?)(s)$", text, re.IGNORECASE
    )
    if not said:
        return 0.0
    minutes, number, unit = (said[1], said[2], said[3]) if said[2] else (None, said[5], said[6])
    return 60.0 * int(minutes or 0) + float(number) * (0.001 if unit.lower() == "ms" else 1.0)


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return 0.0
    return value if 0 < value < 1e9 else 0.0
