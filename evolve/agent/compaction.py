"""Compaction of long conversations: shortens the oldest results of tools before a model's context is full.

Compaction depends only on the messages and the limit, so that resumed runs and replays shorten alike; digests in the
journal are of the shortened messages. The journal's turns keep every result in full.
"""

from __future__ import annotations

from typing import Any

from evolve.prompts.tokens import estimate_tokens

TARGET = 0.7
"""Share of the limit in use after a shortening: shortening at each turn would lose endpoints' prompt caches."""

KEPT_ANSWERS = 2
"""Latest answers whose tool results are never shortened."""

KEPT_CHARS = 240
"""Most characters kept of a shortened result: its first lines, with the score or the refusal."""


def tokens_of(messages: list[dict[str, Any]]) -> int:
    """Estimated tokens of messages, tool calls included."""
    return sum(estimate_tokens(str(m.get("content") or "") + str(m.get("tool_calls") or "")) for m in messages)


def compact(messages: list[dict[str, Any]], most: int, *, apart: int = 0) -> int:
    """Shorten the oldest results of tools in place, where the conversation is longer than a limit.

    Args:
        messages: in the form of chat completions, the oldest first.
        most: limit of the conversation in tokens.
        apart: tokens sent beside the messages: system message and tools.

    Returns:
        Number of shortened results.
    """
    used = apart + tokens_of(messages)
    if used <= most:
        return 0
    answers = [at for at, m in enumerate(messages) if m["role"] == "assistant"]
    end = answers[-KEPT_ANSWERS] if len(answers) >= KEPT_ANSWERS else 0
    shortened = 0
    for message in messages[:end]:
        content = message["content"]
        if message["role"] != "tool" or len(content) <= 2 * KEPT_CHARS:
            continue
        if used <= TARGET * most:
            break
        kept = content[:KEPT_CHARS].rsplit("\n", 1)[0]
        message["content"] = f"{kept}\n[shortened by {len(content) - len(kept)} characters: call the tool again]"
        used -= estimate_tokens(content) - estimate_tokens(message["content"])
        shortened += 1
    return shortened
