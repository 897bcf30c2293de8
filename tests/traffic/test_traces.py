"""Traces in every format, on rows that were made up for the test."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from evaluators.data.errors import UserError
from evaluators.traffic.traces import ServedRequest, TraceFormat, read_trace

OWN = (
    '{"arrival_s": 5.5, "prompt_tokens": 300, "output_tokens": 20}\n\n'
    '{"arrival_s": 5, "prompt_tokens": 7, "output_tokens": 1}\n'
)
Row = tuple[float, int, int]
MOONCAKE = (
    '{"timestamp": 27000, "input_length": 6000, "output_length": 52, "hash_ids": [1, 2]}\n'
    '{"timestamp": 30500, "input_length": 700, "output_length": 9, "hash_ids": []}\n'
)
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 02:00:00.259930+02:00,2399,6\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,417,0,417,Conversation log\n118,ChatGPT,30,7,37,API log\n"
)
BURSTGPT_SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "1.5,a,2,GPT-4,12,3,15,API log\n"
)


def parse(
    tmp_path: Path, text: str, *, limit: int | None = None
) -> tuple[TraceFormat, list[tuple[float, int, int]], int]:
    path = tmp_path / "trace"
    path.write_text(text)
    trace = read_trace(path, limit=limit)
    rows = [(round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens) for r in trace.requests]
    return trace.format, rows, trace.empty


@pytest.mark.parametrize(
    ("text", "kind", "rows", "empty"),
    [
        (OWN, TraceFormat.OWN, [(0.0, 7, 1), (0.5, 300, 20)], 0),
        (MOONCAKE, TraceFormat.MOONCAKE, [(0.0, 6000, 52), (3.5, 700, 9)], 0),
        (AZURE, TraceFormat.AZURE, [(0.0, 374, 44), (4.314579, 396, 109)], 0),
        (AZURE_2024, TraceFormat.AZURE, [(0.0, 2162, 5), (0.25, 2399, 6)], 0),
        (BURSTGPT, TraceFormat.BURSTGPT, [(0.0, 472, 18), (113.0, 30, 7)], 1),
        (BURSTGPT_SESSIONS, TraceFormat.BURSTGPT, [(0.0, 12, 3)], 0),
    ],
    ids=["own", "mooncake", "azure", "azure-2024", "burstgpt", "burstgpt-sessions"],
)
def test_formats(tmp_path: Path, text: str, kind: TraceFormat, rows: list[Row], empty: int) -> None:
    assert parse(tmp_path, text) == (kind, rows, empty)


def test_gzipped_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + AZURE.encode()))
    assert read_trace(tmp_path / "t.gz").span_s == pytest.approx(4.314579)


def test_limit(tmp_path: Path) -> None:
    assert parse(tmp_path, AZURE, limit=1)[1] == [(0.0, 374, 44)]


def test_requests_are_plain() -> None:
    assert ServedRequest(0.0, 1, 2) == ServedRequest(0.0, 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no request"),
        ('{"arrival_s": 1, "prompt_tokens": 0, "output_tokens": 3}\n', "holds no request"),
        ('{"a": 1}\n', "line 1: no trace of requests; found a"),
        ("x,y\n1,2\n", "line 2: no trace of requests; found x, y"),
        (OWN + "{\n", "line 4: not JSON"),
        (OWN + "[1]\n", "line 4: expected an object, got list"),
        (OWN + '{"arrival_s": 1}\n', "line 4: no prompt_tokens"),
        (OWN.replace("5.5", "NaN"), "line 1: expected a finite number"),
        (OWN.replace("5.5", "true"), "line 1: expected a number, got True"),
        (OWN.replace("300", "1.5"), "line 1: expected a whole number of tokens, got 1.5"),
        (OWN.replace("300", "-1"), "line 1: expected a whole number of tokens, got -1"),
        (AZURE.replace("2023-11-16 18:15:50", "yesterday"), "line 3: Invalid isoformat string"),
        (AZURE.replace("396,109", "396"), "line 3: expected a number, got None"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(tmp_path, text)


@pytest.mark.parametrize("text", ["", "hello\n", '{"a": 1}\n'])
def test_a_file_without_requests_is_told_what_a_request_has(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        parse(tmp_path, text)
    assert "arrival_s, prompt_tokens, output_tokens" in error.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(AZURE.encode())[:-12])
    with pytest.raises(UserError, match="cannot be read: Compressed file ended"):
        read_trace(tmp_path / "cut.gz")
    (tmp_path / "latin").write_bytes(b"\xe4")
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_trace(tmp_path / "latin")
