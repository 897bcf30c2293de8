"""Kernel builds that can run a decode call: `fa3_fwd` and `upstream` (contiguous KV), `vllm` (paged KV)."""

from __future__ import annotations

from evaluators.measure.providers.base import BoundLaunch, CallInputs, Provider, ProviderUnavailable
from evaluators.measure.providers.registry import open_provider, provider_names

__all__ = ["BoundLaunch", "CallInputs", "Provider", "ProviderUnavailable", "open_provider", "provider_names"]
