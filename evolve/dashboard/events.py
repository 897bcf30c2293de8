"""Server-sent events of one run: what changed, with ids by which a browser resumes where it broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from evolve.dashboard.hub import Change, FollowedRun

BEAT_S = 10.0
"""Silence after which a comment is sent, so that a connection that is gone is noticed."""

RETRY_MS = 1000


def last_event(text: str | None) -> int | None:
    """The id in a `Last-Event-ID` header; None when there is none, or it is none of ours."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


def frame(change: Change) -> bytes:
    """One event. JSON holds no line breaks of its own, so that one data line is enough."""
    return f"id: {change.id}\nevent: change\ndata: {json.dumps(change.data)}\n\n".encode()


def stream(run: FollowedRun, since: int | None, *, go_on: Callable[[], bool], pause_s: float = 0.25) -> Iterator[bytes]:
    """Frames for one reader until `go_on` says no; the first one at once, with all since `since`."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    seen = run.look()
    change = run.change(since)
    yield frame(change)
    silent = time.monotonic()
    while go_on():
        time.sleep(pause_s)
        revision = run.look()
        if revision != seen:
            seen = revision
            change = run.change(change.id)
            yield frame(change)
            silent = time.monotonic()
        elif time.monotonic() - silent > BEAT_S:
            yield b": beat\n\n"
            silent = time.monotonic()
