"""Configuration sections of proposers, one per kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from evolve.secrets import as_texts, body_keys, endpoint_url, environment_name, named_values


class Section(BaseModel):
    """Part of a run configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OfflineConfig(Section):
    """Proposer without a model: generic edits of the syntax tree and constants."""

    kind: Literal["offline"] = "offline"
    without: tuple[str, ...] = Field((), description="edit kinds to leave out, or span (for ablations)")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="how often kinds of edits are tried, where docs/offline-edits.md says otherwise: {cost: 5}"
    )


EnvironmentName = Annotated[str, AfterValidator(environment_name)]
EndpointUrl = Annotated[str, AfterValidator(endpoint_url)]
Named = Annotated[dict[str, str], BeforeValidator(as_texts), AfterValidator(named_values)]


class _RequestKeys(Section):
    """Keys of requests to an endpoint."""

    base_url: EndpointUrl = Field(
        "https://api.openai.com/v1",
        description="endpoint, up to and with /v1; without user names, passwords or keys, which journals would keep",
    )
    api_key_env: EnvironmentName = Field(
        "OPENAI_API_KEY", description="name of the environment variable that holds the key; empty: no key is sent"
    )
    headers: Named = Field(
        {}, description="further headers; ${NAME} stands for an environment variable, for keys in headers of their own"
    )
    query: Named = Field({}, description="query of the URL, e.g. {api-version: 2024-10-21}; ${NAME} as in headers")
    extra_body: Annotated[dict[str, Any], AfterValidator(body_keys)] = Field(
        {}, description="further keys of the request, e.g. {top_p: 0.9}; sent as they are"
    )
    temperature: float | None = Field(0.7, ge=0, le=2, description="null: the endpoint's own")
    max_tokens: int = Field(8192, gt=0, description="longest answer, its reasoning included")
    max_completion_tokens: int | None = Field(None, gt=0, description="the same under its newer name, instead")
    reasoning_effort: str | None = Field(None, description="e.g. low, medium, high; null: not sent")
    requests_per_minute: float | None = Field(None, gt=0, description="most calls begun in a minute")
    seeded: bool = Field(True, description="send the proposal's seed with the request")

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer, under either name of the limit."""
        return self.max_completion_tokens or self.max_tokens


class ModelConfig(_RequestKeys):
    """One of several models; missing keys are taken from the proposer's own."""

    name: str = Field(description="model name as the endpoint knows it")
    weight: float = Field(1.0, gt=0, description="how often it is asked, relative to the others")

    @model_validator(mode="before")
    @classmethod
    def _without_unset(cls, data: Any) -> Any:
        # Configurations of before 0.2 were written with nulls for what was left out.
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if v is not None or k not in ("base_url", "api_key_env")}
        return data

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Dump explicitly given keys only: an explicit null differs from a missing key."""
        whole: dict[str, Any] = handler(self)
        return {key: value for key, value in whole.items() if key in self.model_fields_set}


class EndpointConfig(_RequestKeys):
    """Models of OpenAI-compatible endpoints, and retries."""

    model: str | None = Field(None, description="model name as the endpoint knows it")
    models: tuple[ModelConfig, ...] = Field((), description="several models, instead of `model`")
    bandit: bool = Field(True, description="shift weight to the models that improve the score most per cost")
    timeout_s: float = Field(120.0, gt=0, description="per request; reasoning models may need 600")
    retries: int = Field(4, ge=0, description="further tries after 429, 5xx, timeouts and broken answers")
    backoff_s: float = Field(1.0, gt=0, description="first wait; doubled each time")

    def check_models(self) -> None:
        """Check that there is one model, or several different ones.

        Raises:
            ValueError: no model, both keys, or a model named twice.
        """
        if (self.model is None) == (not self.models):
            raise ValueError("name one model under `model`, or several under `models`")
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ValueError("`models` names a model twice")

    def all_models(self) -> tuple[ModelConfig, ...]:
        """Every model with all its keys filled in; empty for an external operator."""
        own = {key: getattr(self, key) for key in _RequestKeys.model_fields}
        named = self.models or ((ModelConfig(name=self.model),) if self.model else ())
        return tuple(ModelConfig(**{**own, **{key: getattr(m, key) for key in m.model_fields_set}}) for m in named)


class OpenAIConfig(EndpointConfig):
    """Proposer that asks an OpenAI-compatible endpoint."""

    kind: Literal["openai"] = "openai"
    correct: bool = Field(True, description="ask once more, with the reason, where an answer cannot be read")

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        self.check_models()
        return self


class AgentConfig(EndpointConfig):
    """Proposer that sends an agent with tools on an expedition per proposal."""

    kind: Literal["agent"] = "agent"
    operator: Literal["model", "external"] = Field(
        "model", description="model: the endpoint's; external: whoever calls the tools by evosplit agent (CLI or MCP)"
    )
    evaluations: int = Field(8, ge=1, description="drafts judged in one expedition; the same decisions again are free")
    fit_tables: int = Field(0, ge=0, description="decision tables that fitting constants may score in one; 0: no fit")
    turns: int = Field(24, ge=1, description="answers of the model in one expedition, or calls of an external operator")
    tokens: int | None = Field(None, gt=0, description="prompt and answer tokens of one expedition")
    usd: float | None = Field(None, gt=0, description="US dollars of one expedition, by `budget.prices`")
    context_tokens: int | None = Field(
        None, ge=8000, description="longest conversation; beyond it the oldest results of tools are shortened"
    )
    more_regressions: int = Field(0, ge=0, description="regressions beyond its parent's that the gate lets pass")
    stall: int = Field(3, ge=1, description="drafts or expeditions in a row without gain that count as stagnation")
    supervisor: bool = Field(True, description="ask for a diagnosis and directions, without tools, on stagnation")

    @model_validator(mode="after")
    def _model_or_external(self) -> Self:
        if self.operator == "model":
            self.check_models()
        elif self.model is not None or self.models:
            raise ValueError("with `operator: external` no model is asked: leave `model` and `models` out")
        return self


class ManualConfig(Section):
    """Proposer that puts prompts into a folder, where a person or any program answers them."""

    kind: Literal["manual"] = "manual"
    model: str = Field("manual", description="who answers, where an answer does not say so itself")
    poll_s: float = Field(0.2, gt=0, description="how often to look for answers")


class ReplayConfig(Section):
    """Proposer that returns the answers of a recorded run."""

    kind: Literal["replay"] = "replay"
    run: str = Field(description="folder of the recorded run")
    prompts: Literal["same", "any"] = Field("same", description="whether prompts must be the recorded ones, too")


KINDS = ("offline", "openai", "agent", "manual", "replay")
"""Kinds of proposers."""

ProposerConfig = OfflineConfig | OpenAIConfig | AgentConfig | ManualConfig | ReplayConfig
