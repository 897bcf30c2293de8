"""Folder of a sweep, with the list of its runs. Each run is an ordinary run folder below it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from evolve.config import RunConfig, parse_config, with_overrides
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME
from evolve.journal.packed import has_journal
from evolve.journal.run_folder import SWEEP_FILE, write_whole
from evolve.reports.run_watch import RunWatch
from evolve.run import held_config
from evolve.sweep.plan import Member

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep with its folder.

    Attributes:
        path: the folder; holds `sweep.json` and one run folder per member.
        members: its runs, in the order in which they are started.
    """

    path: Path
    members: tuple[Member, ...]

    def folder(self, member: Member) -> Path:
        """Folder of a run."""
        return self.path / member.label

    def started(self, member: Member) -> bool:
        """True if a run has a journal, so that it is resumed."""
        return (self.folder(member) / FILE_NAME).exists()

    def config(self, member: Member, overrides: list[str]) -> RunConfig:
        """A run's configuration with overrides; a run that was resumed alone keeps the overrides given then.

        Raises:
            UserError: the run's own configuration cannot be read, or an override is wrong.
        """
        if self.started(member):
            return held_config(self.folder(member), overrides)
        return with_overrides(member.config, overrides)

    def unfinished(self, overrides: list[str]) -> dict[str, RunConfig]:
        """Configurations of the runs that have not made all their proposals, by label."""
        found = {}
        for member in self.members:
            config = self.config(member, overrides)
            watch = RunWatch(self.folder(member))
            watch.look()
            if not watch.finished(config):
                found[member.label] = config
        return found

    def write(self) -> None:
        """Write the list of runs."""
        runs = [{"label": m.label, "variant": m.variant, "config": m.config.model_dump(mode="json")}
                for m in self.members]  # fmt: skip
        write_whole(self.path / SWEEP_FILE, json.dumps({"format": FORMAT, "runs": runs}, indent=1) + "\n")

    def overridden(self, overrides: list[str]) -> Sweep:
        """Copy of the sweep with overrides for the runs that have not begun."""
        members = (replace(m, config=with_overrides(m.config, overrides)) for m in self.members)
        return replace(self, members=tuple(members))


def is_sweep(path: Path) -> bool:
    """True if a folder is that of a sweep."""
    return (path / SWEEP_FILE).is_file()


def read_sweep(path: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        UserError: the folder holds no sweep, one of another version, or a configuration that cannot be read.
    """
    file = path / SWEEP_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = data["format"]
        rows = (
            [(str(r["label"]), str(r["variant"]), dict(r["config"])) for r in data["runs"]] if found == FORMAT else []
        )
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}", hint="evosplit sweep CONFIG starts a sweep"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    if found != FORMAT:
        raise UserError(f"{file} has format {found!r}, this evosplit knows {FORMAT}", hint="upgrade evosplit")
    return Sweep(path, tuple(Member(label, variant, parse_config(config)) for label, variant, config in rows))


def find_sweep(text: str, runs_dir: Path) -> Path:
    """A sweep's folder by path, by name, or `last`.

    Raises:
        UserError: no such sweep; names those that exist.
    """
    known = sorted((p.parent for p in runs_dir.glob(f"*/{SWEEP_FILE}")), key=lambda p: (p / SWEEP_FILE).stat().st_mtime)
    if text == "last" and known:
        return known[-1]
    for folder in (Path(text), runs_dir / text):
        if is_sweep(folder):
            return folder
        if has_journal(folder):
            raise UserError(f"{text} is one run, not a sweep", hint=f"evosplit run --resume {text}")
    names = ", ".join(p.name for p in known[-5:])
    raise UserError(f"no sweep {text!r}", hint=f"known: {names}" if names else "evosplit sweep CONFIG starts one")
