"""Proposer `replay`: the answers of a recorded run, to repeat the search without the model."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.journal.journal import Entry, open_journal
from evolve.proposal import Request, Response
from evolve.proposer_config import ReplayConfig
from evolve.proposers.base import ProposerError

SHOWN_CHARS = 160


def recorded_entries(config: ReplayConfig) -> dict[int, Entry]:
    """Read all proposals of the recorded run.

    Raises:
        UserError: the folder has no journal.
    """
    with open_journal(Path(config.run), read_only=True) as journal:
        return {e.id: e for e in journal.entries()}


def recorded_models(config: ReplayConfig) -> dict[int, str]:
    """Model of each recorded proposal."""
    return {index: e.asked_model for index, e in recorded_entries(config).items()}


class ReplayProposer:
    """Proposer that returns recorded answers, as long as the requests equal the recorded ones."""

    name = "replay"

    def __init__(self, config: ReplayConfig) -> None:
        """Read the recorded run.

        Raises:
            UserError: the folder has no journal.
        """
        self._config = config
        self._entries = recorded_entries(config)

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`.

        Raises:
            ProposerError: the recorded run has an error here, too.
            UserError: the request differs from the recorded one; the message gives the first difference.
        """
        entry = self._entries.get(request.index)
        if entry is None or (entry.answer is None and not entry.error):
            raise UserError(
                f"{self._config.run} holds no answer to proposal {request.index}",
                hint=f"it ends there: --set search.proposals={max(0, request.index - self._seeds())}",
            )
        parted = self._difference(entry, request)
        if parted:
            raise UserError(
                f"proposal {request.index} is not the recorded one: {parted}",
                hint="the judge, the table, the configuration or the prompts have changed since; "
                "evosplit replay --any-prompt lets the texts of prompts differ",
                exit_code=EXIT_NEGATIVE,
            )
        if entry.answer is None:
            raise ProposerError(entry.error, spent=entry.spent)
        return entry.answer

    def _seeds(self) -> int:
        return sum(e.kind == "seed" for e in self._entries.values())

    def _difference(self, entry: Entry, request: Request) -> str:
        """First difference between a request and the recorded one; empty if they are equal."""
        inspirations = tuple(record.id for record in request.inspirations)
        for what, recorded, now in (
            ("parent", entry.parent, request.parent.id),
            ("island", entry.island, request.island),
            ("inspirations", entry.inspirations, inspirations),
            ("diff", entry.diff, request.diff),
            ("seed", entry.seed, request.seed),
        ):
            if recorded != now:
                return f"{what} was {recorded}, now it is {now}"
        if self._config.prompts == "any":
            return ""
        for message, before, after in (("system", entry.system, request.system), ("user", entry.user, request.user)):
            if before != after:
                return f"its {message} message differs {_first_difference(before, after)}"
        return ""

    async def aclose(self) -> None:
        """Do nothing."""


def _first_difference(recorded: str, now: str) -> str:
    lines = zip_longest(recorded.splitlines(), now.splitlines())
    for number, (before, after) in enumerate(lines, start=1):
        if before != after:
            return f"in line {number}: recorded {_shown(before)}, now {_shown(after)}"
    return "in its line ends"


def _shown(line: str | None) -> str:
    return "nothing" if line is None else repr(line[:SHOWN_CHARS])
