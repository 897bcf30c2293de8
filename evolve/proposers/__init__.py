"""Sources of new programs.

`openai` calls models; `manual` writes prompts to files that people or programs answer; `offline` edits without a model;
`replay` repeats the answers of a run.
"""

from __future__ import annotations

from evolve.proposal import ProgramRecord, Request, Response
from evolve.proposer_config import ManualConfig, OfflineConfig, OpenAIConfig, ProposerConfig, ReplayConfig
from evolve.proposers.base import EndpointError, Proposer, ProposerError

__all__ = ["EndpointError", "ProgramRecord", "Proposer", "ProposerError", "Request", "Response", "open_proposer"]


def open_proposer(config: ProposerConfig) -> Proposer:
    """Open the proposer of a configuration.

    Raises:
        UserError: it cannot run here, e.g. because a key is missing.
    """
    if isinstance(config, OpenAIConfig):
        from evolve.proposers.openai import OpenAIProposer

        return OpenAIProposer(config)
    if isinstance(config, ManualConfig):
        from evolve.proposers.manual import ManualProposer

        return ManualProposer(config)
    if isinstance(config, ReplayConfig):
        from evolve.proposers.replay import ReplayProposer

        return ReplayProposer(config)
    from evolve.proposers.offline import OfflineProposer

    assert isinstance(config, OfflineConfig)  # an agent works with the judge, see evolve.agent
    return OfflineProposer(without=frozenset(config.without), weights=config.weights)
