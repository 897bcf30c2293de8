"""`evosplit view`: serves the live dashboard."""

from __future__ import annotations

from pathlib import Path

import typer

from evolve.cli.common import say
from evolve.dashboard.hub import Hub
from evolve.dashboard.server import DashboardServer, is_loopback
from evolve.errors import UserError
from evolve.journal.run_folder import find_run


def view_command(names: list[str], runs_dir: Path, *, host: str, port: int, expose: bool) -> int:
    """Serve runs until Ctrl-C; by default all runs, including later ones."""
    if not is_loopback(host) and not expose:
        raise UserError(
            f"{host} can be reached from other machines, and anyone who reaches it can read the runs",
            hint="leave --host out, or add --expose",
        )
    if not names and not runs_dir.is_dir():
        raise UserError(f"no folder {runs_dir}", hint="evosplit run starts a run; --runs-dir names another folder")
    hub = Hub([find_run(name, runs_dir) for name in names], None if names else runs_dir)
    found = hub.names()
    server = DashboardServer(hub, host, port)
    hub.warm()
    say(f"{len(found)} run{'' if len(found) == 1 else 's'}; Ctrl-C ends")
    typer.echo(server.url)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0
