"""Sources of new programs: `openai` asks models, `manual` whoever answers files, `offline` edits without a model."""

from __future__ import annotations

from evolve.config import ManualConfig, OpenAIConfig, ProposerConfig
from evolve.proposers.base import Answer, Ask, ProgramRecord, Proposer, ProposerError

__all__ = ["Answer", "Ask", "ProgramRecord", "Proposer", "ProposerError", "open_proposer"]


def open_proposer(config: ProposerConfig) -> Proposer:
    """The proposer that a configuration names.

    Raises:
        UserError: it cannot run here, e.g. for want of a key.
    """
    if isinstance(config, OpenAIConfig):
        from evolve.proposers.openai import OpenAIProposer

        return OpenAIProposer(config)
    if isinstance(config, ManualConfig):
        from evolve.proposers.manual import ManualProposer

        return ManualProposer(config)
    from evolve.proposers.offline import OfflineProposer

    return OfflineProposer(without=frozenset(config.without))
