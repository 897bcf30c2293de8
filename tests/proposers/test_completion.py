"""Bodies and refusals of endpoints, as they come and as nobody would think of."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.proposer_config import ModelConfig
from evolve.proposers.completion import NoCompletion, error_text, read_completion, token_count
from evolve.proposers.endpoint import Endpoint
from evolve.proposers.refusals import RefusalKind, Wire, adapted, asked_wait_s, verdict

WIRE = Wire(0.7, "max_tokens", 8192, seeded=True)


def body(message: object, finish: str | None = "stop", **more: object) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **more}).encode()


@pytest.mark.parametrize(
    "given_body",
    [
        body({"content": "hello"}),
        body({"content": "hello", "reasoning_content": "long thoughts"}),
        body({"content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}),
        body({"content": ["hel", "lo"]}),
        body({"content": None, "reasoning_content": "hello"}),
        b"\xef\xbb\xbf" + body({"content": "hello"}),
        b"\n   \n" + body({"content": "hello"}),
        b"[" + body({"content": "hello"}) + b"]",
        b": KEEP ALIVE\n\ndata: " + body({"content": "hello"}) + b"\n\ndata: [DONE]\n\n",
        b'data: {"choices": [{"delta": {"content": "hel"}}]}\n\ndata: {"choices": [{"delta": {"content": "lo"}}]}\n\n',
        body({"content": "hello"}, None, usage="none"),
        body({"content": "hello"}, usage={"prompt_tokens": [], "completion_tokens": {}, "cost": "free"}),
    ],
)
def test_a_text_is_found(given_body: bytes) -> None:
    assert read_completion(given_body).text == "hello"


@pytest.mark.parametrize(
    ("given_body", "words", "code"),
    [
        (b"", "empty", 0),
        (b"<html><body>Log in to the proxy</body></html>", "HTML came, not JSON: 'Log in to the proxy'", 0),
        (b"{not json", "not JSON", 0),
        (b'"text"', "expected a JSON object", 0),
        (b"[1, 2]", "expected a JSON object", 0),
        (b"{}", "no choices", 0),
        (b'{"choices": []}', "no choices", 0),
        (b'{"choices": [{"message": null}]}', "no message", 0),
        (b'{"error": {"message": "insufficient credits", "code": 402}}', "insufficient credits", 402),
        (b'{"choices": [{"error": {"code": 502, "message": "Upstream"}, "message": {}}]}', "Upstream", 502),
        (b"[" * 100_000, "not JSON", 0),
        (b'{"choices": ' + b"9" * 10_000 + b"}", "", 0),
    ],
)
def test_why_there_is_none_is_told_in_the_endpoints_words(given_body: bytes, words: str, code: int) -> None:
    with pytest.raises(NoCompletion) as caught:
        read_completion(given_body)
    assert words in str(caught.value) and caught.value.code == code and len(str(caught.value)) < 1000


KEYS = [
    "choices", "message", "content", "error", "usage", "prompt_tokens", "completion_tokens", "total_tokens", "cost",
    "delta", "code", "detail", "loc", "finish_reason", "reasoning", "refusal", "text",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "usage",
                    "prompt_tokens",
                    "completion_tokens",
                    "total_tokens",
                    "cost",
                    "delta",
                    "code",
                    "detail",
                    "loc",
                    "finish_reason",
                    "reasoning",
                    "refusal",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([b"", b"data: ", b"\xef\xbb\xbf"]))
def test_no_body_is_a_surprise(value: object, before: bytes) -> None:
    given_body = before + json.dumps(value).encode()
    assert isinstance(error_text(given_body), str)
    try:
        found = read_completion(given_body, cost_header="x")
    except NoCompletion as error:
        assert str(error)
    else:
        assert isinstance(found.text, str)
        assert all(n is None or 0 <= n <= 10**9 for n in (found.tokens_in, found.tokens_out))
        assert found.cost_usd is None or 0 <= found.cost_usd <= 10_000


@given(st.binary(max_size=80))
def test_no_bytes_are_a_surprise(given_body: bytes) -> None:
    assert isinstance(error_text(given_body), str)
    try:
        read_completion(given_body)
    except NoCompletion as error:
        assert str(error)


@pytest.mark.parametrize(
    ("value", "count"),
    [(5, 5), ("700", 700), (3.0, 3), (-1, None), (10**30, None), (True, None), (0.5, None), ("", None), (None, None)],
)
def test_counts(value: object, count: int | None) -> None:
    assert token_count(value) == count


def test_a_refusal_quotes_no_part_of_the_request() -> None:
    detail = [
        {"loc": ["body", "seed"], "msg": "Extra inputs", "input": {"temperature": 1, "messages": "secret prompt"}}
    ]
    assert error_text(json.dumps({"detail": detail}).encode()) == "Extra inputs | body | seed"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            {"limit_name": "max_completion_tokens"},
        ),
        ("max_tokens is too large: 8192. This model supports at most 4096 completion tokens", {"limit": 4096}),
        ("`max_tokens` must be less than or equal to `4096`, the maximum value for `max_tokens`", None),
        ("'temperature' does not support 0.7 with this model", {"temperature": None}),
        ("Unrecognized request argument supplied: seed", {"seeded": False}),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", {"merged": True}),
        ("System role not supported", {"merged": True}),
        ("This model's maximum context length is 16384 tokens", {"context": 16384}),
        ("the available context size (4096 tokens) is too small", {"context": 4096}),
        ("context length of 1100 tokens exceeded", None),  # too small for any answer
        ("Invalid model name", None),
        ("the weather is seedy", None),
    ],
)
def test_what_is_refused_is_left_out(text: str, changed: dict[str, Any] | None) -> None:
    found = adapted(WIRE, text, 1000)
    if text.startswith("`max_tokens` must"):
        assert found is not None and (found.limit == 4096 or found.limit_name != WIRE.limit_name)
        return
    assert (found is None) == (changed is None)
    if found is not None and changed is not None:
        assert {name: getattr(found, name) for name in changed} == changed and found.differences(found) == []
        assert len(WIRE.differences(found)) == 1


@pytest.mark.parametrize(
    ("status", "text", "wanted"),
    [
        (401, "", RefusalKind.STOP),
        (403, "", RefusalKind.STOP),
        (403, "Your input was flagged", RefusalKind.REFUSED),
        (404, "", RefusalKind.STOP),
        (402, "", RefusalKind.STOP),
        (429, "slow down", RefusalKind.BUSY),
        (429, "insufficient_quota", RefusalKind.STOP),
        (400, "Your credit balance is too low", RefusalKind.STOP),
        (400, "too long", RefusalKind.REFUSED),
        (413, "", RefusalKind.REFUSED),
        (451, "", RefusalKind.REFUSED),
        (408, "", RefusalKind.BUSY),
        (529, "Overloaded", RefusalKind.BUSY),
        (301, "", RefusalKind.STOP),
    ],
)
def test_what_a_status_means(status: int, text: str, wanted: RefusalKind) -> None:
    assert verdict(status, text) is wanted


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({"retry-after": "3"}, "", 3),
        ({"retry-after": "2.5"}, "", 2.5),
        ({"retry-after-ms": "3500", "retry-after": "9"}, "", 3.5),
        ({"retry-after": "in an hour"}, "", 3600),
        ({"retry-after": "soon"}, "", 0),
        ({"retry-after": "-5"}, "", 0),
        ({"retry-after": "nan"}, "", 0),
        ({}, "Please retry in 34.07s. | RESOURCE_EXHAUSTED", 34.07),
        ({}, "quota | 34s", 34),
        ({}, "Please try again in 1m30s.", 90),
        ({}, "Please try again in 350ms.", 0.35),
        ({}, "busy", 0),
    ],
)
def test_how_long_an_endpoint_asks_to_wait(headers: dict[str, str], text: str, seconds: float) -> None:
    if seconds == 3600:
        headers = {"retry-after": formatdate(time.time() + 3600, usegmt=True)}
    assert asked_wait_s(headers, text) == pytest.approx(seconds, abs=30 if seconds == 3600 else 1e-6)


def test_calls_keep_the_distance_that_is_asked_for() -> None:
    async def begun() -> list[float]:
        endpoint = Endpoint(ModelConfig(name="m", api_key_env="", requests_per_minute=600), 5.0)
        started, times = time.monotonic(), []

        async def one() -> None:
            await endpoint.turn()
            times.append(time.monotonic() - started)

        await asyncio.gather(*(one() for _ in range(5)))
        await endpoint.aclose()
        return sorted(times)

    times = asyncio.run(begun())
    assert times[0] < 0.1 and times[-1] >= 0.39


def test_tools_that_are_called_are_read() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "curve", "arguments": '{"shape": "s"}'}},
        {"function": {"name": "read", "arguments": {"topic": "waves"}}},  # some servers send an object, and no id
        {"function": {"name": "status"}},
        {"function": "curve"},
        "curve",
    ]
    found = read_completion(body({"content": None, "reasoning_content": "Hm.", "tool_calls": calls}, "tool_calls"))
    assert [(c.id, c.name, c.arguments) for c in found.tool_calls] == [
        ("a", "curve", '{"shape": "s"}'),
        ("call_1", "read", '{"topic": "waves"}'),
        ("call_2", "status", "{}"),
    ]
    assert found.text == ""  # reasoning is no answer where tools are called


@pytest.mark.parametrize("given_calls", [None, {}, "x", [None], [{"function": {"arguments": "{}"}}]])
def test_what_is_no_call_is_left_out(given_calls: object) -> None:
    assert read_completion(body({"content": "hello", "tool_calls": given_calls})).tool_calls == ()
