"""`evosplit queue`: list the prompts of a `manual` run, show one, answer one."""

from __future__ import annotations

from pathlib import Path

import typer

from evolve.cli.common import emit, read_input, say
from evolve.errors import UserError
from evolve.journal.run_folder import find_run
from evolve.proposers.prompt_queue import QUEUE_FOLDER, PromptQueue, Reply, Task, TaskState, task_id
from evolve.reports.plain_text import plain


def _queue(run: str, runs_dir: Path) -> PromptQueue:
    folder = find_run(run, runs_dir)
    queue = PromptQueue(folder / QUEUE_FOLDER)
    if not queue.folder.is_dir():
        raise UserError(f"{folder} has no prompt queue", hint="runs with proposer.kind: manual have one")
    return queue


def task_json(task: Task) -> dict[str, object]:
    """State of a prompt in the queue as JSON, without its text."""
    return {
        "id": task.id,
        "state": task.state.value,
        "path": str(task.path),
        "created_at": task.created_at,
        "proposal": task.meta.get("proposal"),
        "parent": task.meta.get("parent"),
        "island": task.meta.get("island"),
        "diff": task.meta.get("diff"),
        "model": task.model,
        "problem": task.problem,
    }


def list_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """List the prompts that wait for an answer; as JSON, all prompts."""
    queue = _queue(run, runs_dir)
    tasks = queue.tasks()
    if as_json:
        emit({"queue": str(queue.folder), "tasks": [task_json(t) for t in tasks]})
        return 0
    waiting = [t for t in tasks if t.state is not TaskState.ANSWERED]
    for t in waiting:
        wanted = "diff" if t.meta.get("diff") else "program"
        typer.echo(f"{t.id}  {t.state.value:10}  {wanted:7}  from {t.meta.get('parent')}  {plain(t.problem)}".rstrip())
    say(f"{len(waiting)} waiting, {len(tasks) - len(waiting)} answered in {queue.folder}")
    return 0


def show_command(name: str, run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print a prompt as text, ready for a model."""
    task = _queue(run, runs_dir).task(_name(name))
    if as_json:
        emit({**task_json(task), "display_prompt": task.display_prompt})
    else:
        typer.echo(plain(task.display_prompt), nl=False)
    return 0


def answer_command(name: str, file: Path, run: str, runs_dir: Path, *, reply: Reply, as_json: bool) -> int:
    """Answer a prompt with the text of a file; `reply` carries model, note and token counts."""
    text = read_input(str(file))
    if not text.strip():
        raise UserError(f"{file} is empty", hint="an answer holds SEARCH/REPLACE blocks or one fenced program")
    said = Reply(text, reply.model, reply.note, reply.tokens_in, reply.tokens_out)
    path = _queue(run, runs_dir).answer(_name(name), said)
    if as_json:
        emit({"id": _name(name), "path": str(path)})
    else:
        typer.echo(f"answered: {path}")
    return 0


def _name(text: str) -> str:
    """Name of a prompt; a bare number is that of a proposal."""
    return task_id(int(text)) if text.isdecimal() else text
