"""The prompt queue: prompts and answers as files, in the format of OpenEvolve's manual mode.

`<id>.json` is a prompt, `<id>.answer.json` its answer; both are written atomically, by a rename. The record of a run is
its journal, which gets an answer as soon as it is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from evolve.errors import UserError
from evolve.proposers.completion import token_count

QUEUE_FOLDER = "manual_tasks_queue"
"""Subfolder of a run; OpenEvolve's name, so that programs that answer its queue work here."""

TASK_SUFFIX, ANSWER_SUFFIX = ".json", ".answer.json"


class TaskState(StrEnum):
    """State of a prompt."""

    OPEN = "open"
    ANSWERED = "answered"
    UNREADABLE = "unreadable"
    """There is an answer file without a valid answer; it is read again until it has one."""


class NoAnswer(Exception):
    """An answer file without a valid answer; the message gives the expected and the actual content."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer from a file. `model` is empty if the file names none."""

    text: str
    model: str = ""
    note: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt of the queue, with its state."""

    id: str
    path: Path
    created_at: str
    display_prompt: str
    meta: dict[str, Any]
    state: TaskState
    problem: str = ""
    model: str = ""


def task_id(index: int) -> str:
    """Name of a proposal's prompt, stable across restarts."""
    return f"{index:05d}"


def _named(name: str) -> str:
    """Validate a prompt's name from a user.

    Raises:
        UserError: it would point outside the queue.
    """
    if not name or name.startswith(".") or Path(name).name != name:
        raise UserError(f"{name!r} is not the name of a prompt", hint="evosplit queue list shows them")
    return name


def display_prompt(messages: Sequence[dict[str, str]]) -> str:
    """Messages as one text, in OpenEvolve's layout."""
    return "\n".join(f"### {m['role'].upper()}\n{m['content']}\n" for m in messages).rstrip() + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _write(path: Path, data: dict[str, Any], *, replace: bool) -> None:
    """Write a file atomically.

    Raises:
        FileExistsError: it exists and may not be replaced.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        part.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")
        if replace:
            part.replace(path)
        else:
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise NoAnswer(f"{path.name} cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise NoAnswer(f"{path.name}: expected a JSON object, got {type(data).__name__}")
    return data


def _count(usage: object, key: str) -> tuple[int, str]:
    """A credible count of tokens (or 0), and the given value if it is not credible."""
    value = usage.get(key) if isinstance(usage, dict) else None
    count = token_count(value)
    return count or 0, "" if value is None or count is not None else f"{key} {str(value)[:40]}"


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


class PromptQueue:
    """Queue folder of one run, shared by any number of processes."""

    def __init__(self, folder: Path) -> None:
        """Set the folder, which is created with the first prompt."""
        self.folder = folder

    def _task_path(self, name: str) -> Path:
        if name != Path(name).name or name.startswith("."):
            raise UserError(f"{name!r} is not the name of a prompt", hint="evosplit queue list shows them")
        return self.folder / f"{name}{TASK_SUFFIX}"

    def _answer_path(self, name: str) -> Path:
        return self.folder / f"{name}{ANSWER_SUFFIX}"

    def put(self, name: str, messages: Sequence[dict[str, str]], *, model: str, meta: dict[str, Any]) -> None:
        """Write a prompt, unless it exists already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._task_path(name)
        try:
            if _read(path).get("messages") == list(messages):
                return
        except NoAnswer:
            pass  # absent, or damaged from outside: rewritten
        task = {
            "id": name,
            "created_at": _now(),
            "model": model,
            "display_prompt": display_prompt(messages),
            "messages": list(messages),
            "meta": meta,
        }
        _write(path, task, replace=True)

    def reply(self, name: str) -> Reply | None:
        """Read the answer to a prompt; None without one.

        Raises:
            NoAnswer: the file has no text under `answer`; it may be incomplete.
        """
        path = self._answer_path(name)
        if not path.exists():
            return None
        data = _read(path)
        answer = data.get("answer")
        if not isinstance(answer, str):
            raise NoAnswer(f"{path.name}: expected a text under `answer`, got {type(answer).__name__}")
        if data.get("id", name) != name:
            raise NoAnswer(f"{path.name}: its `id` is {str(data['id'])[:40]!r}: the answer to another prompt")
        usage = data.get("usage")
        tokens_in, doubt_in = _count(usage, "prompt_tokens")
        tokens_out, doubt_out = _count(usage, "completion_tokens")
        doubts = ", ".join(filter(None, (doubt_in, doubt_out)))
        note = "; ".join(filter(None, (_text(data, "note"), doubts and f"not believed: {doubts}")))
        return Reply(answer, _text(data, "model"), note, tokens_in, tokens_out)

    def answer(self, name: str, reply: Reply) -> Path:
        """Write the answer to a prompt; returns the file.

        Raises:
            UserError: no such prompt, or it has an answer already.
        """
        if not self._task_path(_named(name)).exists():
            waiting = ", ".join(t.id for t in self.tasks() if t.state is TaskState.OPEN)
            raise UserError(f"no prompt {name} in {self.folder}", hint=f"open: {waiting or 'none'}")
        data: dict[str, Any] = {"id": name, "answer": reply.text, "created_at": _now()}
        if reply.model:
            data["model"] = reply.model
        if reply.note:
            data["note"] = reply.note
        if reply.tokens_in or reply.tokens_out:
            data["usage"] = {"prompt_tokens": reply.tokens_in, "completion_tokens": reply.tokens_out}
        path = self._answer_path(name)
        try:
            _write(path, data, replace=False)
        except FileExistsError as error:
            hint = f"an answer stays as it was given; to mend an unreadable one, remove {path}"
            raise UserError(f"prompt {name} has an answer already", hint=hint) from error
        return path

    def tasks(self) -> list[Task]:
        """All prompts, oldest first."""
        names = sorted(
            p.name.removesuffix(TASK_SUFFIX)
            for p in self.folder.glob(f"*{TASK_SUFFIX}")
            if not p.name.startswith(".") and not p.name.endswith(ANSWER_SUFFIX)
        )
        return [self.task(name) for name in names]

    def task(self, name: str) -> Task:
        """Read one prompt.

        Raises:
            UserError: no such prompt, or it cannot be read.
        """
        path = self._task_path(_named(name))
        if not path.exists():
            raise UserError(f"no prompt {name} in {self.folder}", hint="evosplit queue list shows them")
        try:
            data = _read(path)
        except NoAnswer as error:
            raise UserError(str(error), hint="evosplit run --resume rewrites open prompts") from error
        meta = data.get("meta")
        state, problem, model = TaskState.OPEN, "", ""
        try:
            reply = self.reply(name)
            if reply is not None:
                state, model = TaskState.ANSWERED, reply.model
                problem = reply.note if "not believed" in reply.note else ""
        except NoAnswer as error:
            state, problem = TaskState.UNREADABLE, str(error)
        return Task(
            name,
            path,
            _text(data, "created_at"),
            _text(data, "display_prompt"),
            meta if isinstance(meta, dict) else {},
            state,
            problem,
            model,
        )
