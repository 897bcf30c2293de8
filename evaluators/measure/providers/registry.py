"""Providers by name; opening one imports its library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators.measure.providers.base import ProviderUnavailable

if TYPE_CHECKING:
    from evaluators.measure.providers.base import Provider


def provider_names() -> tuple[str, ...]:
    """Names that `open_provider` takes."""
    return ("fa3_fwd", "vllm", "upstream", "triton_decode")


def open_provider(name: str, library: str = "", *, paged: bool = False) -> Provider:
    """Load a provider.

    Args:
        name: one of `provider_names()`.
        library: another build of its kernel: path of a shared library, or name of a package.
        paged: True for paged KV, for providers that serve both.

    Raises:
        ProviderUnavailable: unknown name, or the provider cannot run here; the message gives the reason.
    """
    if name == "fa3_fwd":
        from evaluators.measure.providers.fa3_fwd import Fa3Fwd

        return Fa3Fwd(library)
    if name == "vllm":
        from evaluators.measure.providers.vllm import Vllm

        return Vllm(library)
    if name == "upstream":
        from evaluators.measure.providers.upstream import Upstream

        return Upstream(library)
    if name == "triton_decode":
        from evaluators.measure.providers.triton_decode import TritonDecode

        return TritonDecode(library, paged=paged)
    raise ProviderUnavailable(f"unknown provider {name!r}; known: {', '.join(provider_names())}")
