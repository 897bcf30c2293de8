"""Traces of requests: own JSONL, and public serving traces in the formats in which they are published.

A trace says when each request arrived, how long its prompt was and how many tokens were generated. Formats are told
apart by their keys or columns:

- own: JSONL with `arrival_s`, `prompt_tokens`, `output_tokens`;
- Mooncake (github.com/kvcache-ai/Mooncake): JSONL with `timestamp` in milliseconds, `input_length`, `output_length`;
- Azure LLM inference 2023 and 2024 (github.com/Azure/AzurePublicDataset): CSV with dates in `TIMESTAMP`,
  `ContextTokens`, `GeneratedTokens`;
- BurstGPT (github.com/HPMLL/BurstGPT): CSV with `Timestamp` in seconds, `Request tokens`, `Response tokens`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from evaluators.data.errors import UserError

MAX_TOKENS = 10_000_000
"""Longest prompt or answer in tokens; a larger number is refused."""


class TraceFormat(StrEnum):
    """Formats of traces."""

    OWN = "own"
    MOONCAKE = "mooncake"
    AZURE = "azure"
    BURSTGPT = "burstgpt"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a format's fields, and how its times become seconds."""

    arrival: str
    prompt: str
    output: str
    seconds: Callable[[Any], float]

    @property
    def fields(self) -> tuple[str, str, str]:
        """Names of the three fields."""
        return self.arrival, self.prompt, self.output


def _number(value: Any) -> float:
    """A finite number, also as text.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


def _date(value: Any) -> float:
    """Seconds of a date such as `2023-11-16 18:15:46.6805900`, with or without an offset from UTC."""
    text = str(value).strip()
    head, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :]
    whole = datetime.fromisoformat(f"{head}{zone}" if point else text)
    if whole.tzinfo is None:
        whole = datetime.fromisoformat(f"{head}{zone or '+00:00'}" if point else f"{text}+00:00")
    return whole.timestamp() + (float(f"0.{digits}") if digits else 0.0)


LAYOUTS: Mapping[TraceFormat, Layout] = {
    TraceFormat.OWN: Layout("arrival_s", "prompt_tokens", "output_tokens", _number),
    TraceFormat.MOONCAKE: Layout("timestamp", "input_length", "output_length", lambda v: _number(v) / 1e3),
    TraceFormat.AZURE: Layout("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date),
    TraceFormat.BURSTGPT: Layout("Timestamp", "Request tokens", "Response tokens", _number),
}


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request.

    Attributes:
        arrival_s: seconds after the first request of the trace.
        prompt_tokens: tokens of the prompt, at least 1.
        output_tokens: generated tokens, at least 1.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        requests: requests with a prompt and an answer.
        empty: rows without prompt or answer, such as failed requests, which are left out.
    """

    name: str
    format: TraceFormat
    requests: tuple[ServedRequest, ...]
    empty: int

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival_s


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read: {why}", hint="configs/traces holds examples") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason})") from error


def _format_of(names: Iterable[str], where: str) -> TraceFormat:
    known = set(names)
    for kind, layout in LAYOUTS.items():
        if known.issuperset(layout.fields):
            return kind
    found = ", ".join(sorted(filter(None, known))) or "nothing"
    raise UserError(f"{where}: no trace of requests; found {found}", hint=_expected())


def _expected() -> str:
    return "expected one of: " + "; ".join(", ".join(layout.fields) for layout in LAYOUTS.values())


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        yield number, row


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _tokens(value: Any) -> int:
    number = _number(value)
    if number != int(number) or not 0 <= number <= MAX_TOKENS:
        raise ValueError(f"expected a whole number of tokens, got {value!r}")
    return int(number)


def read_trace(path: Path, *, limit: int | None = None) -> Trace:
    """Read a trace, gzipped or not.

    At most `limit` requests are read.

    Raises:
        UserError: it cannot be read, is in no known format, a line is wrong, or no request is left.
    """
    text = _text(path)
    rows = (_json_rows if text.lstrip()[:1] == "{" else _csv_rows)(text, path)
    found: list[ServedRequest] = []
    kind, empty = None, 0
    for number, row in rows:
        where = f"{path}, line {number}"
        if kind is None:
            kind = _format_of(row, where)
        layout = LAYOUTS[kind]
        try:
            arrival = layout.seconds(row[layout.arrival])
            prompt, output = _tokens(row[layout.prompt]), _tokens(row[layout.output])
        except KeyError as error:
            raise UserError(f"{where}: no {error.args[0]}") from error
        except (ValueError, OverflowError) as error:
            raise UserError(f"{where}: {error}") from error
        if prompt and output:
            found.append(ServedRequest(arrival, prompt, output))
        else:
            empty += 1
        if limit is not None and len(found) >= limit:
            break
    if kind is None or not found:
        raise UserError(f"{path} holds no request with a prompt and an answer", hint=_expected())
    found.sort(key=lambda r: r.arrival_s)
    first = found[0].arrival_s
    moved = (ServedRequest(r.arrival_s - first, r.prompt_tokens, r.output_tokens) for r in found)
    return Trace(path.name, kind, tuple(moved), empty)
