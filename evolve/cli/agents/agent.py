"""`evosplit agent`: the tools of an external operator, one call per command, or as an MCP server."""

from __future__ import annotations

from pathlib import Path

import typer

from evolve.agent import tools
from evolve.agent.expedition import Reported
from evolve.assets import asset
from evolve.cli.common import emit, read_input, say
from evolve.cli.failures import kept_at_stop
from evolve.config import load_config
from evolve.journal.run_folder import find_run
from evolve.operator.session import OperatorSession, Told, arguments_of
from evolve.proposer_config import AgentConfig
from evolve.reports.plain_text import plain
from evolve.run import held_config

SKILL = Path(__file__).parent.parent.parent / "operator" / "skill" / "SKILL.md"


def open_command(config: Path, sets: list[str], *, as_json: bool) -> int:
    """Begin a run and print its first brief."""
    session = OperatorSession.start(load_config(asset(str(config)), sets), on_event=say)
    if as_json:
        emit({**session.status(), "brief": session.brief()})
    else:
        typer.echo(plain(session.brief()))
        say(f"\nrun: {session.folder}; next: evosplit agent call {session.folder} TOOL --args JSON")
    return 0


def tools_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print the tools and their arguments."""
    agent = held_config(find_run(run, runs_dir)).proposer
    names = tools.offered(fit=isinstance(agent, AgentConfig) and agent.fit_tables > 0)
    if as_json:
        shown = [{"name": n, "description": tools.description(n), "parameters": tools.parameters(n)} for n in names]
        emit({"tools": shown})
        return 0
    for name in names:
        typer.echo(f"{name}: {tools.description(name)}")
        for key, field in tools.TOOLS[name].model_fields.items():
            typer.echo(f"    {key}: {field.description}{'' if field.is_required() else f' [{field.default!r}]'}")
    return 0


def brief_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print the task of the open expedition and the tool results so far."""
    session = _taken_up(run, runs_dir)
    if as_json:
        emit({**session.status(), "brief": session.brief()})
    else:
        typer.echo(plain(session.brief()))
    return 0


def status_command(run: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print the progress of a run."""
    found = _taken_up(run, runs_dir).status()
    if as_json:
        emit(found)
        return 0
    done, leader = found["expeditions"], found["leader"]
    typer.echo(f"expeditions  {done['done']} of {done['wanted']}")
    waits = f"proposal {found['proposal']} from {found['parent']}" if found["waits"] else "no"
    typer.echo(f"waits        {waits}")
    if leader:
        typer.echo(f"leader       proposal {leader['proposal']}, training score {leader['score']:.4f}")
    if found["left"]:
        typer.echo(found["left"])
    return 0


def call_command(
    run: str, tool: str, runs_dir: Path, *, args: str, draft: Path | None, reported: Reported, as_json: bool
) -> int:
    """Call one tool; `draft` is a file whose text becomes the argument of that name."""
    arguments = arguments_of(read_input(args) if args == "-" else args)
    if draft is not None:
        arguments = arguments_of(_with_draft(arguments, read_input(str(draft))))
    session = _taken_up(run, runs_dir)
    told = session.call(tool, arguments, reported)
    if as_json:
        emit({"tool": tool, "text": told.text, "ended": told.ended, "committed": told.committed})
    else:
        _show(told, session.folder)
    return 0


def serve_command(run: str, runs_dir: Path) -> int:
    """Serve the tools over MCP on standard input and output; a configuration file starts a new run."""
    from evolve.operator.mcp_server import serve

    if run.endswith((".yaml", ".yml")):
        session = OperatorSession.start(load_config(asset(run), []), on_event=say)
    else:
        session = _taken_up(run, runs_dir)
    say(f"serving {session.folder} over MCP on standard input and output")
    serve(session)
    return 0


def skill_command() -> int:
    """Print the Agent Skill, to be saved where an agent looks for skills."""
    typer.echo(SKILL.read_text(encoding="utf-8"), nl=False)
    return 0


def _taken_up(run: str, runs_dir: Path) -> OperatorSession:
    folder = find_run(run, runs_dir)
    kept_at_stop(f"finished calls stay in {folder}; go on with: evosplit agent brief {folder}")
    return OperatorSession.take_up(folder, on_event=say)


def _show(told: Told, folder: Path) -> None:
    typer.echo(plain(told.text))
    if told.ended:
        say(f"\nthe expedition has ended: {told.ended}")
        if told.committed:
            score = f", training score {told.committed['score']:.4f}" if "score" in told.committed else ""
            say(f"proposal {told.committed['proposal']}: {told.committed['status']}{score}")
        say(f"the next one: evosplit agent brief {folder}")


def _with_draft(arguments: str, text: str) -> str:
    import json

    return json.dumps({**json.loads(arguments), "draft": text})
