"""Sources of new programs: `openai` asks a model, `offline` edits without one."""

from __future__ import annotations

from evolve.config import OfflineConfig, OpenAIConfig
from evolve.proposers.base import Answer, Ask, ProgramRecord, Proposer, ProposerError

__all__ = ["Answer", "Ask", "ProgramRecord", "Proposer", "ProposerError", "open_proposer"]


def open_proposer(config: OfflineConfig | OpenAIConfig) -> Proposer:
    """The proposer that a configuration names.

    Raises:
        UserError: it cannot run here, e.g. for want of a key.
    """
    if isinstance(config, OpenAIConfig):
        from evolve.proposers.openai import OpenAIProposer

        return OpenAIProposer(config)
    from evolve.proposers.offline import OfflineProposer

    return OfflineProposer(without=frozenset(config.without))
