"""Timeline of a run in Chrome's trace format, for Perfetto (ui.perfetto.dev) and chrome://tracing.

One process per track (proposer, turns of expeditions, sandbox, GPU), with as many threads as worked concurrently. Older
runs without spans have one track, from a proposal's request to its commit.
"""

from __future__ import annotations

from typing import Any

from evolve.dashboard.views.reader import RunReader

LANES = ("proposer", "turns", "sandbox", "gpu")
WHOLE = "proposals"

Span = tuple[int, str, float, float]
"""Proposal, name, start in seconds since the epoch, seconds."""


def timeline(reader: RunReader) -> dict[str, Any]:
    """Trace with times in microseconds from the start of the run."""
    spans: dict[str, list[Span]] = {lane: [] for lane in (*LANES, WHOLE)}
    for index, lane, name, start, seconds in reader.spans():
        spans.setdefault(lane, []).append((index, name, start, seconds))
    for node in reader.nodes:
        if node["kind"] != "seed" and node["committed_at_s"] is not None:
            start = reader.created_at + node["asked_at_s"]
            spans[WHOLE].append((node["id"], node["status"], start, node["committed_at_s"] - node["asked_at_s"]))
    events: list[dict[str, Any]] = []
    for pid, (lane, found) in enumerate(spans.items(), start=1):
        if found:
            events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": lane}})
            events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}})
        events += _events(found, pid, reader)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"run": reader.name, "proposer": reader.meta.get("proposer", "")},
    }


def _events(spans: list[Span], pid: int, reader: RunReader) -> list[dict[str, Any]]:
    """Complete events, each in the first thread that is free at its start."""
    free: list[float] = []
    events = []
    for index, name, start, seconds in sorted(spans, key=lambda s: s[2]):
        thread = next((i for i, until in enumerate(free) if until <= start), len(free))
        free[thread : thread + 1] = [start + seconds]
        node = reader.nodes[index] if index < len(reader.nodes) else None
        events.append(
            {
                "ph": "X",
                "name": f"#{index} {name}".rstrip(),
                "cat": node["status"] if node else "",
                "pid": pid,
                "tid": thread + 1,
                "ts": round((start - reader.created_at) * 1e6),
                "dur": max(1, round(seconds * 1e6)),
                "args": {"proposal": index, "island": node["island"] if node else None},
            }
        )
    return events
