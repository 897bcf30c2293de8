"""Decoder models from a Hugging Face `config.json`: the properties that determine decode calls.

A configuration may nest the text model (multimodal models), leave out what its model class defaults to, and mix layers
with and without a sliding window. `known_models.json` holds excerpts of the published files of well-known models, each
with its address; they are read like any other. The same heads under another name give the same workload.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evaluators.data.errors import UserError

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Sections of the text model in configurations of multimodal models."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_heads_q": ("num_attention_heads", "n_head", "n_heads"),
    "num_heads_kv": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""Keys of different model classes for the same number, the most common first."""

CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "sliding_window": 4096},
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
        "vocab_size": 262208,
    },
}  # fmt: skip
"""Defaults of model classes for keys that their configurations omit (Hugging Face transformers)."""

WINDOW_PERIODS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
"""Model classes in which every n-th layer has full attention and the others a window, unless they list their layers."""

NOT_ATTENTION = ("linear_attention", "conv", "mamba", "recurrent")
"""Layer types without keys and values."""


class ModelRefused(UserError):
    """A model whose decode calls are not supported; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class ModelShard:
    """Part of a model that one GPU of a tensor parallel group holds.

    Attributes:
        tp: GPUs of the group.
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU; if there are fewer than GPUs, each GPU has a copy of one.
        intermediate_size: columns of the feed-forward layers on this GPU, rounded up.
        vocab_size: rows of the embedding on this GPU, rounded up.
    """

    tp: int
    num_heads_q: int
    num_heads_kv: int
    intermediate_size: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class DecoderModel:
    """A decoder model.

    Attributes:
        name: name in the table, or of the file.
        source: source of the numbers.
        hidden_size: width of the residual stream.
        head_dim: size of one head of Q and K.
        head_dim_v: size of one head of V.
        intermediate_size: width of one feed-forward layer, or of one expert.
        experts: experts per layer with experts; 0 for a dense model.
        windows: visible keys of a query, for each layer with attention; 0 for all. Layers with chunked attention count
            as 0, since they are the same call up to a chunk of keys.
        kv_dtype: element type of the KV cache, `bf16` or `fp8`; fp16 counts as bf16, which decides alike.
        softcap: True if attention scores are capped.
        sinks: True if heads have learned sinks.
    """

    name: str
    source: str
    hidden_size: int
    num_layers: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    head_dim_v: int
    intermediate_size: int
    vocab_size: int
    experts: int
    windows: tuple[int, ...]
    kv_dtype: str
    softcap: bool
    sinks: bool

    def shard(self, tp: int) -> ModelShard:
        """Part of the model on one of `tp` GPUs.

        Raises:
            UserError: heads cannot be cut so.
        """
        if tp < 1 or self.num_heads_q % tp:
            raise UserError(
                f"{self.name}: {self.num_heads_q} query heads cannot be cut for {tp} GPUs",
                hint=f"--tp with a divisor of {self.num_heads_q}",
            )
        if max(tp, self.num_heads_kv) % min(tp, self.num_heads_kv):
            raise UserError(
                f"{self.name}: {self.num_heads_kv} KV heads can be neither cut nor copied evenly for {tp} GPUs",
                hint=f"--tp with a divisor or a multiple of {self.num_heads_kv}",
            )
        return ModelShard(
            tp=tp,
            num_heads_q=self.num_heads_q // tp,
            num_heads_kv=max(1, self.num_heads_kv // tp),
            intermediate_size=-(-self.intermediate_size // tp),
            vocab_size=-(-self.vocab_size // tp),
        )


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Window of each layer with attention; 0 without one."""
    window: Any = config.get("sliding_window") or 0
    if not isinstance(window, int):
        raise UserError(f"sliding_window: expected a whole number, got {window!r}")
    kinds: Sequence[str] = config.get("layer_types") or ()
    if kinds:
        kept = [k for k in kinds if not any(k.startswith(name) for name in NOT_ATTENTION)]
        if "sliding_attention" in kept and not window:
            raise UserError("layer_types names sliding_attention, but there is no sliding_window")
        return tuple(window if kind == "sliding_attention" else 0 for kind in kept)
    if interval := config.get("full_attention_interval"):
        return tuple(0 for _ in range(layers // int(interval)))
    if not window or config.get("use_sliding_window") is False:
        return (0,) * layers
    if config.get("use_sliding_window") and "max_window_layers" in config:
        full = min(int(config["max_window_layers"]), layers)
        return (0,) * full + (window,) * (layers - full)
    period = config.get("sliding_window_pattern") or WINDOW_PERIODS.get(config.get("model_type", ""), 0)
    if isinstance(period, int) and period > 1:
        return tuple(0 if (layer + 1) % period == 0 else window for layer in range(layers))
    return tuple(window for _ in range(layers))


def _kv_dtype(config: Mapping[str, Any]) -> str:
    quantized = config.get("quantization_config") or {}
    scheme = quantized.get("kv_cache_scheme") or {}
    fp8 = scheme.get("num_bits") == 8 and scheme.get("type", "float") == "float"
    return "fp8" if fp8 or str(quantized.get("kv_cache_quant_algo", "")).upper() == "FP8" else "bf16"


def _refuse_unlike(config: Mapping[str, Any], heads_kv: int, head_dim: int) -> None:
    """Check that layers differ only in their window."""
    for key, usual in (
        ("swa_num_key_value_heads", heads_kv), ("num_global_key_value_heads", heads_kv), ("global_head_dim", head_dim),
        ("swa_head_dim", head_dim),
    ):  # fmt: skip
        other = config.get(key)
        if other and other != usual:
            raise ModelRefused(
                f"layers with heads of two kinds ({key} {other}, elsewhere {usual}) are not one workload",
                hint="write a configuration for each kind",
            )


def model_from_config(config: Mapping[str, Any], name: str, source: str) -> DecoderModel:
    """Parse the content of a `config.json`.

    Raises:
        UserError: a number is missing, or no number.
        ModelRefused: latent attention (MLA), which FA3 runs with a third operand, or layers with heads of two kinds.
    """
    whole = config
    while section := next((config[key] for key in NESTED if isinstance(config.get(key), dict)), None):
        config = section
    config = {**CLASS_DEFAULTS.get(str(config.get("model_type", "")), {}), **config}

    def number(field: str, default: int | None = None, least: int = 1) -> int:
        found = next((config[key] for key in ALIASES[field] if config.get(key) is not None), default)
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise UserError(f"{' or '.join(ALIASES[field])}: expected a whole number from {least}, got {found!r}")
        return found

    try:
        if config.get("kv_lora_rank"):
            latent = config["kv_lora_rank"]
            width = latent + int(config.get("qk_rope_head_dim") or 0)
            raise ModelRefused(
                f"latent attention (MLA, {width}/{latent}): FA3 decodes it with a third operand (q_v), which is not "
                "mirrored"
            )
        heads_q = number("num_heads_q")
        one_kv = config.get("multi_query") and not config.get("new_decoder_architecture")
        heads_kv = number("num_heads_kv", 1 if one_kv else heads_q)
        hidden, layers = number("hidden_size"), number("num_layers")
        head_dim = number("head_dim", hidden // heads_q)
        _refuse_unlike(config, heads_kv, head_dim)
        if heads_q % heads_kv:
            raise UserError(f"{heads_q} query heads are not a multiple of {heads_kv} KV heads")
        experts = number("experts", 0, least=0)
        width = number("intermediate_size", 4 * hidden)
        return DecoderModel(
            name=name,
            source=source,
            hidden_size=hidden,
            num_layers=layers,
            num_heads_q=heads_q,
            num_heads_kv=heads_kv,
            head_dim=head_dim,
            head_dim_v=int(config.get("v_head_dim") or head_dim),
            intermediate_size=int(config.get("moe_intermediate_size") or width) if experts else width,
            vocab_size=number("vocab_size"),
            experts=experts,
            windows=_windows(config, layers),
            kv_dtype=_kv_dtype({**whole, **config}),
            softcap=bool(config.get("attn_logit_softcapping")),
            sinks=config.get("model_type") == "gpt_oss",
        )
    except UserError as error:
        raise type(error)(f"{source}: {error}", hint=error.hint, exit_code=error.exit_code) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is not the config.json of a decoder model ({error})") from error


@cache
def _known() -> Mapping[str, Mapping[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(
        Path(__file__).with_name("known_models.json").read_text(encoding="utf-8")
    )
    return rows


def known_models() -> tuple[str, ...]:
    """Names of the well-known models."""
    return tuple(_known())


def read_model(text: str) -> DecoderModel:
    """Read a model by a well-known name, or by the path of its `config.json` or of its folder.

    Raises:
        UserError: not found, unreadable, or see `model_from_config`.
    """
    if text.lower() in _known():
        row = _known()[text.lower()]
        return model_from_config(row["config"], text.lower(), row["source"])
    path = Path(text)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"unknown model {text!r}: neither a well-known name nor a file",
            hint=f"a config.json, or one of: {', '.join(known_models())}",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object, got {type(config).__name__}")
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    return model_from_config(config, name, str(path))
