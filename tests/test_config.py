from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from pydantic import BaseModel

from evolve.config import RunConfig, load_config, parse_config
from evolve.errors import EXIT_USAGE, UserError
from evolve.proposer_config import OfflineConfig, OpenAIConfig

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def failure(data: dict[Any, Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        parse_config(data)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value


@pytest.mark.parametrize(
    ("data", "key", "near"),
    [
        ({"serach": {}}, "serach", "search"),
        ({"search": {"proposal": 5}}, "search.proposal", "proposals"),
        ({"judge": {"seting": "x"}}, "judge.seting", "setting"),
        ({"sandbox": {"times": 1}}, "sandbox.times", "time_s"),
        ({"proposer": {"kind": "openai", "model": "m", "base_ulr": "u"}}, "proposer.base_ulr", "base_url"),
        ({"proposer": {"kind": "offline", "withuot": []}}, "proposer.withuot", "without"),
        ({"proposer": {"kind": "openai", "models": [{"nmae": "m"}]}}, "proposer.models.0.nmae", "name"),
        ({"budget": {"prices": {"m": {"inptu": 1, "output": 2}}}}, "budget.prices.m.inptu", "input"),
        ({"search": {"stop": {"socre": 1}}}, "search.stop.socre", "score"),
    ],
)
def test_unknown_keys_name_the_nearest_known(data: dict[str, Any], key: str, near: str) -> None:
    error = failure(data)
    assert str(error) == f"{key}: unknown key"
    assert error.hint == f"did you mean {near}?"


def test_an_unknown_key_like_nothing_known_lists_what_is() -> None:
    hint = failure({"search": {"zzz": 1}}).hint
    assert "known keys" in hint and "proposals" in hint
    # A key of other kinds of proposers is none of this one's.
    assert failure({"proposer": {"kind": "manual", "timeout_s": 1}}).hint == "known keys: kind, model, poll_s"


def test_a_key_named_like_a_proposer_is_unknown_at_the_top() -> None:
    assert str(failure({"openai": {}})) == "openai: unknown key"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"search": {"proposals": -1}}, r"search\.proposals: .*got -1"),
        ({"search": {"window": 0}}, r"search\.window"),
        ({"search": {"diff_share": 1.5}}, r"search\.diff_share"),
        ({"search": {"islands": 10**12}}, r"search\.islands"),
        ({"sandbox": {"time_s": float("inf")}}, r"sandbox\.time_s"),
        ({"sandbox": {"memory_mb": 10**20}}, r"sandbox\.memory_mb"),
        ({"search": {"proposals": "many"}}, r"search\.proposals: .*got 'many'"),
        ({"name": "../up"}, "name"),
        ({"seeds": []}, "seeds"),
        ({"proposer": {"kind": "opena"}}, r"proposer\.kind: unknown 'opena'"),
        ({"proposer": {"model": "m"}}, r"proposer\.kind: missing"),
        ({"proposer": {"kind": "openai"}}, r"proposer: name one model under `model`"),
        ({"judge": {"setting": "fa3_fwd-metadata-cool"}}, r"judge\.setting"),
    ],
)
def test_bad_values_are_named_with_what_came(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(data)


def test_a_misspelt_setting_or_kind_gets_a_hint() -> None:
    assert failure({"judge": {"setting": "fa3_fwd-metadata-cool"}}).hint == "did you mean fa3_fwd-metadata-cold?"
    assert failure({"proposer": {"kind": "opena"}}).hint == "did you mean openai?"


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_are_yaml_scalars_and_make_sections(tmp_path: Path) -> None:
    path = written(tmp_path, "search:\n  islands: 3\njudge:\n")
    sets = ["search.proposals=7", "search.wall_s=null", "judge.weighting=chat", "seeds=[a.py, b.py]", "name=x"]
    config = load_config(path, [*sets, "proposer.kind=openai", "proposer.model=m", "proposer.seeded=false"])
    assert (config.search.islands, config.search.proposals, config.search.wall_s) == (3, 7, None)
    assert config.seeds == ("a.py", "b.py") and config.judge.weighting.value == "chat" and config.name == "x"
    assert isinstance(config.proposer, OpenAIConfig) and config.proposer.seeded is False


@pytest.mark.parametrize("text", ["search.proposals", "=5", "name.first=x", "name=[", "search.proposal=5"])
def test_bad_overrides_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        load_config(written(tmp_path, "name: x\n"), [text])


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- a", "mapping"), ("name: \x00", "not YAML")])
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(written(tmp_path, text), [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        load_config(tmp_path / "absent.yaml", [])


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ""), []) == RunConfig()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_dump_reads_back_as_the_same_configuration(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [])
    assert load_config(written(tmp_path, config.dump_yaml()), []) == config


def test_a_dump_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    config = parse_config({"proposer": {"kind": "openai", "model": "m"}})
    assert "sk-secret" not in config.dump_yaml()
    assert yaml.safe_load(config.dump_yaml())["proposer"]["api_key_env"] == "OPENAI_API_KEY"


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [model]
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += sections(field.annotation)
    return found


def test_every_section_refuses_unknown_keys() -> None:
    models = [*sections(RunConfig), OfflineConfig, OpenAIConfig]
    assert len(models) >= 6
    assert all(m.model_config.get("extra") == "forbid" for m in models)
