"""Long conversations made shorter: the oldest results of tools give way before a model's context is full.

What is shortened follows from the messages and the limit alone, so that a run that goes on after a kill, and a replay,
shorten the same; digests in the journal are of what was sent. The journal's turns keep every result whole.
"""

from __future__ import annotations

from typing import Any

from evolve.prompts.tokens import estimate_tokens

TARGET = 0.7
"""Share of the limit that is left in use: shortening a little at each turn would lose endpoints' prompt caches."""

KEPT_ANSWERS = 2
"""The last answers of the model, whose tools' results stay whole."""

KEPT_CHARS = 240
"""Of a shortened result: its first lines, which hold the score or the refusal."""


def tokens_of(messages: list[dict[str, Any]]) -> int:
    """Estimated tokens of messages, tool calls included."""
    return sum(estimate_tokens(str(m.get("content") or "") + str(m.get("tool_calls") or "")) for m in messages)


def compact(messages: list[dict[str, Any]], most: int, *, apart: int = 0) -> int:
    """Shorten the oldest results of tools in place, where the conversation is longer than a limit.

    Args:
        messages: in the form of chat completions, the oldest first.
        most: tokens that the conversation may have.
        apart: tokens of what is sent beside the messages: system message and tools.

    Returns:
        How many results were shortened.
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
