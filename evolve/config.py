"""Run configuration: one typed YAML. Unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluators.contract import SETTINGS
from evaluators.workloads import WORKLOADS, Weighting
from evolve.errors import UserError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JudgeConfig(_Section):
    """What candidates are judged on."""

    workload: str = Field("llama31-70b", description=f"workload: {', '.join(WORKLOADS)}")
    setting: str = Field("fa3_fwd-metadata-cold", description=f"provider, mode, cache: {', '.join(SETTINGS)}")
    table: str | None = Field(None, description="folder of the recorded table; default: the one that ships")
    weighting: Weighting = Field(Weighting.SERVING, description="serving (all shapes) or chat (short, small)")
    workspace_cap_mb: int = Field(256, gt=0, description="largest fp32 workspace of one decision, in MiB")


class SandboxConfig(_Section):
    """Limits of one candidate over all shapes."""

    time_s: float = Field(2.0, gt=0, description="CPU seconds")
    memory_mb: int = Field(512, ge=64, description="address space in MiB")


class OfflineConfig(_Section):
    """Proposer without a model: generic edits of the syntax tree and constants."""

    kind: Literal["offline"] = "offline"
    without: tuple[str, ...] = Field((), description="edit kinds to leave out (for ablations)")


class OpenAIConfig(_Section):
    """Proposer that asks an OpenAI-compatible endpoint."""

    kind: Literal["openai"] = "openai"
    base_url: str = Field("https://api.openai.com/v1", description="endpoint, up to and with /v1")
    model: str = Field(description="model name as the endpoint knows it")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(8192, gt=0, description="longest answer")
    timeout_s: float = Field(120.0, gt=0, description="per request")
    retries: int = Field(4, ge=0, description="further tries after 429, 5xx, timeouts and broken answers")
    backoff_s: float = Field(1.0, gt=0, description="first wait; doubled each time")
    seeded: bool = Field(True, description="send the proposal's seed with the request")
    price_per_1k_in: float = Field(0.0, ge=0, description="US dollars per 1,000 prompt tokens")
    price_per_1k_out: float = Field(0.0, ge=0, description="US dollars per 1,000 answer tokens")


KINDS = ("offline", "openai")
"""Kinds of proposers."""


class ConstantsConfig(_Section):
    """Constant fitting: a numeric search over the numbers of a program, on the recorded training shapes."""

    every: int = Field(0, ge=0, description="every n-th proposal of an island fits its parent's numbers; 0: none does")
    evaluations: int = Field(500, ge=2, description="decision tables scored in one fit")
    method: Literal["coordinate", "tpe"] = Field(
        "coordinate", description="coordinate (one or two numbers at a time), or tpe (Optuna, extra `fit`)"
    )


class SearchConfig(_Section):
    """The population and the loop."""

    proposals: int = Field(400, ge=0, description="proposals after the seeds; the budget of a run")
    wall_s: float | None = Field(None, gt=0, description="stop after this many seconds")
    window: int = Field(4, ge=1, description="proposal k samples from the results up to k - window")
    parallel_proposals: int = Field(2, ge=1, description="proposals under way at once")
    parallel_evaluations: int = Field(2, ge=1, description="sandboxes running at once")
    islands: int = Field(2, ge=1)
    migration_interval: int = Field(50, ge=1, description="proposals per island between two migrations")
    migration_rate: float = Field(0.1, ge=0, le=1)
    population_size: int = Field(1000, ge=10)
    archive_size: int = Field(50, ge=1)
    feature_bins: int = Field(8, ge=2, description="bins of each MAP-Elites dimension")
    exploration_ratio: float = Field(0.2, ge=0, le=1)
    exploitation_ratio: float = Field(0.7, ge=0, le=1)
    inspirations: int = Field(2, ge=0)
    diff_share: float = Field(0.5, ge=0, le=1, description="share of prompts that ask for a diff, not a rewrite")


class RunConfig(_Section):
    """A run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="first part of the run's id")
    seeds: tuple[str, ...] = Field(("seeds/fa3_stock.py",), min_length=1, description="programs to start from")
    random_seed: int = Field(0, ge=0)
    judge: JudgeConfig = JudgeConfig()
    sandbox: SandboxConfig = SandboxConfig()
    proposer: OfflineConfig | OpenAIConfig = Field(OfflineConfig(), discriminator="kind")
    search: SearchConfig = SearchConfig()
    constants: ConstantsConfig = ConstantsConfig()
    runs_dir: str = Field("runs", description="folder of run folders")

    def table_path(self) -> str:
        """Folder of the recorded table, as the config names it or as it ships."""
        return self.judge.table or f"results/tables/{self.judge.workload}/{self.judge.setting}"

    def dump_yaml(self) -> str:
        """The resolved configuration; holds no secrets, since keys are read from the environment alone."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Keys of the section that `path` leads to."""
    sections: dict[str, list[type[BaseModel]]] = {
        "judge": [JudgeConfig],
        "sandbox": [SandboxConfig],
        "proposer": [OfflineConfig, OpenAIConfig],
        "search": [SearchConfig],
        "constants": [ConstantsConfig],
    }
    models = sections.get(str(path[0]), [model]) if len(path) > 1 else [model]
    return [key for m in models for key in m.model_fields]


def _explain(error: ValidationError) -> tuple[str, str]:
    """Message and hint for the first problem."""
    first = error.errors()[0]
    path = first["loc"]
    if path[:1] == ("proposer",) and len(path) > 2:
        path = (path[0], *path[2:])  # pydantic puts the kind in between, which is no key
    where = ".".join(map(str, path)) or "config"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key", _nearest(str(path[-1]), _known_keys(RunConfig, path), "keys")
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: unknown {first['ctx']['tag']!r}", _nearest(str(first["ctx"]["tag"]), KINDS, "kinds")
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: missing", f"one of: {', '.join(KINDS)}"
    return f"{where}: {first['msg']}, got {first['input']!r}", "evosplit config schema describes every key"


def _nearest(name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known {what}: {', '.join(known)}"


def _override(data: dict[str, Any], text: str) -> None:
    key, found, value = text.partition("=")
    if not found or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE", hint="for example --set search.proposals=50")
    *parents, last = key.split(".")
    section = data
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"--set {text}: {parent} is not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: not a YAML value ({error})") from error


def parse_config(data: dict[str, Any]) -> RunConfig:
    """Validate plain data.

    Raises:
        UserError: naming the key, what came, and the nearest known key.
    """
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        message, hint = _explain(error)
        raise UserError(message, hint=hint) from error
    if config.judge.table is None and config.judge.setting not in SETTINGS:
        hint = _nearest(config.judge.setting, list(SETTINGS), "settings")
        raise UserError(f"judge.setting: no recorded table for {config.judge.setting!r}", hint=hint)
    return config


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML file and apply `--set` overrides.

    Raises:
        UserError: unreadable file, broken YAML, unknown key or bad value.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint="configs/ holds examples") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    for text in overrides:
        _override(data, text)
    return parse_config(data)
