"""Works and replies as text. Lists instead of mappings: a batch holds hundreds of decisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evaluators.data.contract import Cache, Decision, DecodeShape, Mode, Setting
from evaluators.data.device import DeviceRecord
from evaluators.measure.executor import Hello, Work


def setting_row(setting: Setting) -> list[Any]:
    """A setting as a list."""
    return [setting.provider, setting.mode.value, setting.cache.value, setting.page_size, setting.dtype]


def setting_of(row: Sequence[Any]) -> Setting:
    """Inverse of `setting_row`."""
    return Setting(row[0], Mode(row[1]), Cache(row[2]), row[3], row[4])


def _work_row(work: Work) -> list[Any]:
    s = work.shape
    shape = [s.batch, s.seqlen_k, s.num_heads_q, s.num_heads_kv, s.head_dim, s.seqlen_q, s.live_seqlens]
    decisions = [[d.num_splits, d.pack_gqa, d.sm_margin, d.blocks_per_split] for d in work.decisions]
    return [shape, decisions, work.rounds]


def batch_text(works: Sequence[Work]) -> str:
    """One line of JSON; all works have the first one's setting."""
    return json.dumps(
        {"batch": [_work_row(w) for w in works], "setting": setting_row(works[0].setting)}, separators=(",", ":")
    )


def works_of(request: dict[str, Any]) -> list[Work]:
    """Inverse of `batch_text`, of parsed JSON."""
    setting = setting_of(request["setting"])
    return [
        Work(
            setting,
            DecodeShape(*shape[:6], live_seqlens=tuple(shape[6])),  # type: ignore[misc]  # six numbers and a list
            tuple(Decision(*d) for d in decisions),
            rounds,
        )
        for shape, decisions, rounds in request["batch"]
    ]


def hello_text(hello: Hello) -> str:
    """One line of JSON."""
    return json.dumps({"ok": {"device": asdict(hello.device), "builds": hello.builds, "host": hello.host}})


def hello_of(reply: dict[str, Any]) -> Hello:
    """Inverse of `hello_text`, of the parsed `ok`."""
    return Hello(DeviceRecord(**reply["device"]), dict(reply["builds"]), reply["host"])
