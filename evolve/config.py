"""Run configuration: one typed YAML. Unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS
from evaluators.data.workloads import ALL_WORKLOADS, Weighting, is_workload
from evaluators.judge.judge_set import Objective
from evolve.errors import UserError
from evolve.proposer_config import KINDS, AgentConfig, EndpointConfig, OfflineConfig, ProposerConfig, Section

TRACE = "trace"
"""Workload whose shapes, or their weights, come from `traffic.trace`."""

RECORDED_FOR_TRACES = "llama31-70b"
"""Workload whose recorded shapes a trace's batches are mapped to."""


class JudgeConfig(Section):
    """Judge of candidates: table or GPU, weighting, caps."""

    workload: str = Field(
        "llama31-70b", description=f"workload: {', '.join(ALL_WORKLOADS)}, heads such as h32x4-d64, or {TRACE}"
    )
    setting: str = Field("fa3_fwd-metadata-cold", description=f"provider, mode, cache: {', '.join(LIVE_SETTINGS)}")
    table: str | None = Field(None, description="folder of the recorded table; default: the one that ships")
    measure: Literal["recorded", "live"] = Field(
        "recorded", description="recorded: look latencies up in the table; live: measure on this machine's GPU"
    )
    store: str | None = Field(None, description="live: SQLite file of latencies; default: latencies.db in runs_dir")
    tables: tuple[str, ...] = Field((), description="several tables, instead of one: all of them are judged")
    objective: Objective = Field(
        Objective.WORST,
        description="score over several tables: worst or (geometric) mean; or tokens: over one, shapes weigh by the "
        "time that attention takes in the decode steps of `traffic.model`",
    )
    weighting: Weighting = Field(Weighting.SERVING, description="serving (all shapes) or chat (short, small)")
    batch_invariant: bool = Field(
        False, description="refuse programs that cut a sequence into splits by what shares its batch"
    )
    live_lengths: bool = Field(
        False,
        description="tell schedule the largest and the mean live length: for callers that know them",
    )
    workspace_cap_mb: int = Field(256, gt=0, description="largest fp32 workspace of one decision, in MiB")


class MeasureConfig(Section):
    """GPUs that measure, with `judge.measure: live`; without this section, one process on the current GPU."""

    executor: Literal["local", "ray"] = Field(
        "local", description="local: one process per GPU of this machine; ray: a Ray cluster (RAY_ADDRESS)"
    )
    gpus: Literal["all"] | Annotated[int, Field(ge=1)] = Field("all", description="how many GPUs, or all")


class TrafficConfig(Section):
    """A model on a server, and its requests; for `judge.workload: trace`, `judge.objective: tokens` and predictions."""

    model: str = Field(description="well-known model, or its config.json")
    tp: int = Field(1, ge=1, description="GPUs that share the model")
    trace: str | None = Field(
        None,
        description="requests: JSONL of arrival_s, prompt_tokens, output_tokens, or a public trace (docs/tokens.md)",
    )
    requests: int | None = Field(None, ge=1, description="the trace's first so many requests alone")
    steps: str | None = Field(
        None, description="file of measured steps (results/tpot); default: the one that ships, else the roofline"
    )
    max_batch: int = Field(64, ge=1, le=4096, description="most requests that decode together")
    kv_tokens: int = Field(400_000, ge=1, description="keys that the server's KV cache holds")
    max_model_len: int = Field(16_384, ge=2, description="longest request, prompt and answer")
    prefill_tokens_per_s: float = Field(20_000.0, gt=0, description="rate at which prompts are computed")
    batches: int = Field(300, ge=20, le=5000, description="decode steps that are drawn from the simulation")


class SandboxConfig(Section):
    """Limits of one candidate over all shapes."""

    time_s: float = Field(5.0, gt=0, le=86_400, description="CPU seconds")
    memory_mb: int = Field(512, ge=64, le=1 << 20, description="address space in MiB")


class Price(Section):
    """Price of a model, in US dollars per million tokens."""

    input: float = Field(ge=0, description="US dollars per million prompt tokens")
    output: float = Field(ge=0, description="US dollars per million answer tokens")

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """US dollars of one call."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class BudgetConfig(Section):
    """Limits of a run, including all resumptions; see also search.proposals and search.wall_s."""

    usd: float | None = Field(None, gt=0, description="US dollars, by `prices`")
    tokens: int | None = Field(None, gt=0, description="prompt and answer tokens")
    gpu_s: float | None = Field(None, gt=0, description="seconds of measuring on a GPU")
    prices: dict[str, Price] = Field({}, description="price of each model, by its name")


class PromptsConfig(Section):
    """Texts of the prompts; fixed at the start of a run."""

    max_tokens: int = Field(
        24000, ge=4000, description="longest prompt, as estimated; the parent is always shown whole, even if longer"
    )
    system: str | None = Field(None, description="file instead of evolve/prompts/default/system.md")
    user: str | None = Field(None, description="file instead of evolve/prompts/default/user.md")
    diff: str | None = Field(None, description="file instead of evolve/prompts/default/diff.md")
    rewrite: str | None = Field(None, description="file instead of evolve/prompts/default/rewrite.md")


class ConstantsConfig(Section):
    """Constant fitting: a numeric search over the numbers of a program, on the recorded training shapes."""

    every: int = Field(0, ge=0, description="every n-th proposal of an island fits its parent's numbers; 0: none does")
    evaluations: int = Field(500, ge=2, description="decision tables scored in one fit")
    method: Literal["coordinate", "tpe"] = Field(
        "coordinate", description="coordinate (one or two numbers at a time), or tpe (Optuna, extra `fit`)"
    )


class StopConfig(Section):
    """Ends of a search before all its proposals are made; none by default. The first that is reached counts."""

    score: float | None = Field(None, gt=0, description="training score of the leader")
    oracle_share: float | None = Field(None, gt=0, description="its share of the oracle's gain, 1 for all of it")
    stall: int | None = Field(None, ge=1, description="proposals in a row that did not improve the training score")


class SearchConfig(Section):
    """The population and the loop."""

    proposals: int = Field(400, ge=0, description="proposals after the seeds; the budget of a run")
    wall_s: float | None = Field(None, gt=0, description="stop after this many seconds")
    window: int = Field(4, ge=1, description="proposal k samples from the results up to k - window")
    parallel_proposals: int = Field(2, ge=1, description="proposals running at once")
    parallel_evaluations: int = Field(2, ge=1, description="sandboxes running at once")
    islands: int = Field(2, ge=1, le=1000)
    migration_interval: int = Field(10, ge=1, description="proposals per island between two migrations")
    migration_rate: float = Field(0.1, ge=0, le=1)
    population_size: int = Field(1000, ge=10)
    archive_size: int = Field(8, ge=1, description="exploitation draws parents from this many best of the island")
    feature_bins: int = Field(8, ge=2, description="bins of each MAP-Elites dimension")
    exploration_ratio: float = Field(0.1, ge=0, le=1, description="share of parents drawn from the whole island")
    exploitation_ratio: float = Field(
        0.8, ge=0, le=1, description="share drawn from its best few; the rest from all of it, by rank"
    )
    inspirations: int = Field(2, ge=0)
    diff_share: float = Field(0.5, ge=0, le=1, description="share of prompts that ask for a diff, not a rewrite")
    stop: StopConfig = StopConfig()

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.exploration_ratio + self.exploitation_ratio > 1 + 1e-9:
            raise ValueError("exploration_ratio and exploitation_ratio add up to more than 1")
        return self


class RunConfig(Section):
    """A run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="first part of the run's id")
    seeds: tuple[str, ...] = Field(("seeds/fa3_stock.py",), min_length=1, description="programs to start from")
    random_seed: int = Field(0, ge=0)
    judge: JudgeConfig = JudgeConfig()
    measure: MeasureConfig | None = Field(None, description="several GPUs, or a cluster, for a live judge")
    traffic: TrafficConfig | None = Field(None, description="a model on a server, and its requests")
    sandbox: SandboxConfig = SandboxConfig()
    proposer: ProposerConfig = Field(OfflineConfig(), discriminator="kind")
    prompts: PromptsConfig = PromptsConfig()
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    constants: ConstantsConfig = ConstantsConfig()
    runs_dir: str = Field("runs", description="folder of run folders")

    def table_path(self) -> str:
        """Folder of the recorded table: the configured one or the one that ships."""
        workload = RECORDED_FOR_TRACES if self.judge.workload == TRACE else self.judge.workload
        return self.judge.table or f"results/tables/{workload}/{self.judge.setting}"

    def store_path(self) -> str:
        """SQLite file of live latencies, shared by the runs of a folder."""
        return self.judge.store or f"{self.runs_dir}/latencies.db"

    def table_paths(self) -> tuple[str, ...]:
        """Folders of all recorded tables of the judge."""
        return self.judge.tables or (self.table_path(),)

    def dump_yaml(self) -> str:
        """The resolved configuration; holds no secrets, since keys are read from the environment alone."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Models that the annotation of a field names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _sections(part)]


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Keys of the section that holds the last part of `path`, as pydantic reports it: with a proposer's kind."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in path[:-1]:
        of_kind = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        within = [s for m in models if part in m.model_fields for s in _sections(m.model_fields[str(part)].annotation)]
        models = of_kind or within or models  # the last: an index, or a name that the user chose
    return [key for m in models for key in m.model_fields]


def _explain(error: ValidationError) -> tuple[str, str]:
    """Message and hint for the first problem; a misspelt key is told before the one that it should have been."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = first["loc"]
    if path[:1] == ("proposer",) and len(path) > 1:
        path = (path[0], *path[2:])  # pydantic inserts the kind, which is not a key
    where = ".".join(map(str, path)) or "config"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key", _nearest(str(path[-1]), _known_keys(first["loc"]), "keys")
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: unknown {first['ctx']['tag']!r}", _nearest(str(first["ctx"]["tag"]), KINDS, "kinds")
    if first["type"] == "union_tag_not_found":
        return f"{where}.kind: missing", f"one of: {', '.join(KINDS)}"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}", "evosplit config schema describes every key"
    if path[:1] == ("proposer",) and not isinstance(first["input"], bool | int | float | None):
        return f"{where}: {first['msg']}", "evosplit config schema describes every key"  # it may be a key
    return f"{where}: {first['msg']}, got {first['input']!r}", "evosplit config schema describes every key"


def _nearest(name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known {what}: {', '.join(known)}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, of which PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping as PyYAML does; a duplicate key is an error."""
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name != "<<" and lines.setdefault(name, line) != line:
                raise yaml.MarkedYAMLError(problem=f"{name} stands twice, first in line {lines[name]}",
                                           problem_mark=key.start_mark)  # fmt: skip
        return super().construct_mapping(node, deep)


def _override(data: dict[str, Any], text: str) -> None:
    key, found, value = text.partition("=")
    if not found or not key:
        raise UserError(f"--set {text}: expected KEY=VALUE", hint="for example --set search.proposals=50")
    *parents, last = key.split(".")
    shown = key if parents[:1] == ["proposer"] else text  # a key may be in the wrong place
    section = data
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"--set {shown}: {parent} is not a section")
    try:
        section[last] = yaml.load(value, _UniqueKeys)
    except yaml.YAMLError as error:
        raise UserError(f"--set {shown}: not a YAML value ({_why(error)})", hint="quote it") from error


def _why(error: Exception) -> str:
    """YAML error as one line; the library's own message takes several."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


def parse_config(data: dict[str, Any]) -> RunConfig:
    """Validate plain data.

    Raises:
        UserError: the message names the key, its value and the nearest known key.
    """
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        message, hint = _explain(error)
        raise UserError(message, hint=hint) from error
    judge = config.judge
    if config.measure is not None and judge.measure != "live":
        raise UserError(
            "measure: nothing is measured with a recorded table", hint="leave it out, or set judge.measure: live"
        )
    if judge.measure == "live":
        if judge.setting not in LIVE_SETTINGS:
            hint = _nearest(judge.setting, list(LIVE_SETTINGS), "settings")
            raise UserError(f"judge.setting: cannot measure {judge.setting!r}", hint=hint)
        if judge.workload != TRACE and not is_workload(judge.workload):
            raise UserError(
                f"judge.workload: unknown {judge.workload!r}",
                hint=_nearest(judge.workload, list(ALL_WORKLOADS), "workloads"),
            )
        if judge.table is not None or judge.tables:
            raise UserError("judge.table: a live judge reads no table", hint="leave it out, or set measure: recorded")
    elif judge.store is not None:
        raise UserError("judge.store: a recorded table needs no store", hint="leave it out, or set measure: live")
    elif judge.table is None and not judge.tables and judge.setting not in SETTINGS:
        hint = _nearest(judge.setting, list(SETTINGS), "settings")
        raise UserError(f"judge.setting: no recorded table for {judge.setting!r}", hint=hint)
    _check_traffic(config)
    if judge.table is not None and judge.tables:
        raise UserError("judge.table and judge.tables: only one of them", hint="judge.tables may name one table, too")
    if isinstance(config.proposer, AgentConfig):
        _check_agent(config, config.proposer)
    priced = isinstance(config.proposer, AgentConfig) and config.proposer.usd is not None
    if (config.budget.usd is not None or priced) and isinstance(config.proposer, EndpointConfig):
        for model in config.proposer.all_models():
            if model.name not in config.budget.prices:
                hint = "budget.prices names US dollars per million tokens, e.g. {MODEL: {input: 2.0, output: 8.0}}"
                raise UserError(
                    f"{'proposer' if config.budget.usd is None else 'budget'}.usd: no price for {model.name!r}",
                    hint=hint,
                )
    return config


def _check_traffic(config: RunConfig) -> None:
    """Check that workload and objective have the model and the requests that they need."""
    judge, traffic = config.judge, config.traffic
    example = "traffic: {model: llama-3.1-70b, tp: 8, trace: configs/traces/chat.jsonl}"
    if judge.workload == TRACE and (traffic is None or traffic.trace is None):
        raise UserError("judge.workload: trace needs traffic.model and traffic.trace", hint=example)
    if judge.objective is Objective.TOKENS and traffic is None:
        raise UserError("judge.objective: tokens needs traffic.model", hint=example)
    if judge.objective is Objective.TOKENS and judge.tables:
        raise UserError("judge.objective: tokens weighs the shapes of one table", hint="judge.table names it")
    if judge.workload == TRACE and judge.tables:
        raise UserError("judge.workload: trace weighs the shapes of one table", hint="judge.table names it")


def _check_agent(config: RunConfig, agent: AgentConfig) -> None:
    """Check that a configuration suits the agent proposer.

    Raises:
        UserError: the message names the unsuitable key.
    """
    if config.judge.measure == "live":
        hint = "no tool of an agent reaches a GPU: record a table, search on it, then evosplit confirm"
        raise UserError("judge.measure: an agent's drafts are judged on recorded tables", hint=hint)
    if config.constants.every:
        raise UserError("constants.every: an agent fits by its own tool", hint="proposer.fit_tables says how much")
    if agent.fit_tables and config.judge.tables:
        raise UserError("proposer.fit_tables: constants are fitted on one table", hint="leave it out with judge.tables")
    if agent.operator == "external" and config.search.window != 1:
        raise UserError("search.window: an external operator makes one expedition at a time", hint="search.window: 1")


def parse_yaml(text: str, where: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Configuration from YAML text with `--set` overrides.

    Raises:
        UserError: broken YAML, a duplicate key, an unknown key or a bad value.
    """
    try:
        data = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not YAML: {_why(error)}", hint="configs/ holds examples") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping of keys, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return parse_config(data)


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML file and apply `--set` overrides.

    Raises:
        UserError: unreadable file, broken YAML, unknown key or bad value.

    Example:
        >>> evolve.load_config(Path("configs/quickstart.yaml"), ["search.proposals=20"]).search.proposals
        20
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", hint="configs/ holds examples") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: {_why(error)}", hint="configs/ holds examples") from error
    return parse_yaml(text, str(path), overrides)


def changed_keys(one: RunConfig, other: RunConfig) -> dict[str, tuple[object, object]]:
    """Keys in which two configurations differ, in the order of the fields, with both values."""

    def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in data.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return found

    a, b = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def with_overrides(config: RunConfig, overrides: list[str]) -> RunConfig:
    """A configuration with `--set` overrides.

    Raises:
        UserError: unknown key or bad value.
    """
    data = config.model_dump(mode="json")
    for text in overrides:
        _override(data, text)
    return parse_config(data)
