"""API keys, which belong in the environment and never in configurations, journals or messages.

The validators here never repeat a refused value, since it may be the secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from evolve.errors import EXIT_MISSING, UserError

IN_THE_ENVIRONMENT = "keys come from the environment alone"
MAX_NAME, MAX_DIGITS = 64, 6
"""A longer name, or one with more digits, is taken for a pasted key."""

LEAST_CHARS = 8
"""Shorter values are placeholders for local servers, such as `x`, and not secret."""

_SECRET_NAME = re.compile(
    r"key|token|secret|passw|credential|authorization|cookie|signature|^sig$|^auth$", re.IGNORECASE
)
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_OURS = ("model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens", "seed")


def environment_name(name: str) -> str:
    """Validate the name of an environment variable; empty is allowed.

    Raises:
        ValueError: not a name, or it looks like a key.
    """
    digits = sum(c.isdigit() for c in name)
    if re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", name) and len(name) <= MAX_NAME and digits <= MAX_DIGITS:
        return name
    raise ValueError(
        "expected the NAME of an environment variable in capital letters, such as OPENAI_API_KEY, got something else "
        f"(not repeated here: {IN_THE_ENVIRONMENT})"
    )


def endpoint_url(url: str) -> str:
    """Validate a URL without secrets; returns it without the trailing slash.

    Raises:
        ValueError: not http or https, an invalid port, or a user name, password, query or fragment in it.
    """
    wrong = ""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("invalid host or port") from None
    if "@" in url:
        wrong = f"holds a user name or password: {IN_THE_ENVIRONMENT}"
    elif parts.query or parts.fragment or "?" in url or "#" in url:
        wrong = "holds a query or fragment: queries belong under `query`, keys there as ${NAME}"
    elif parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f\\]", url):
        wrong = "expected http://HOST/PATH or https://HOST/PATH"
    if wrong:
        raise ValueError(wrong)
    return url.rstrip("/")


def as_texts(values: Any) -> Any:
    """Headers or query items with numbers and dates as text: YAML parses `2024-10-21` as a date."""
    if not isinstance(values, dict):
        return values
    return {
        k: str(v) if isinstance(v, int | float | date) and not isinstance(v, bool) else v for k, v in values.items()
    }


def named_values(values: dict[str, str]) -> dict[str, str]:
    """Validate headers or query items whose secrets are references to the environment.

    Raises:
        ValueError: a literal secret, a name or a value that cannot be sent, or an invalid reference.
    """
    for name, value in values.items():
        if not _HEADER.match(name):
            raise ValueError("a name of letters, digits and dashes was expected")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"the value of {name} holds characters that cannot be sent")
        references = _REFERENCE.findall(value)
        if "$" in _REFERENCE.sub("", value) or not all(references):
            raise ValueError(f"the value of {name} holds a $ that begins no ${{NAME}}")
        for reference in references:
            environment_name(reference)
        if _SECRET_NAME.search(name) and not references:
            raise ValueError(f"{name} holds a secret written out: {IN_THE_ENVIRONMENT}, as ${{NAME}}")
    return values


def body_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Validate further keys of a request.

    Raises:
        ValueError: a key that the configuration sets elsewhere, or that contains a secret.
    """
    for name, value in values.items():
        if name in _OURS:
            raise ValueError(f"{name} cannot be set here: the request has it already, or needs it as it is")
        if isinstance(value, str) and _SECRET_NAME.search(name):
            raise ValueError(f"{name} holds a secret written out: {IN_THE_ENVIRONMENT}, in `headers` as ${{NAME}}")
    return values


def read_key(name: str) -> str:
    """The value of an environment variable, fit to be sent in a header.

    Raises:
        UserError: not set, or not a valid key.
    """
    value = os.environ.get(name, "")
    if not value:
        raise UserError(
            f"the environment variable {name} is not set",
            hint=f'export {name}=..., or api_key_env: "" for servers that ask for no key',
            exit_code=EXIT_MISSING,
        )
    wrong = ""
    if "\n" in value or "\r" in value:
        wrong = "a line break"
    elif any(c in value for c in "\u2018\u2019\u201c\u201d"):
        wrong = "curly quotes"
    elif not value.isascii() or not value.isprintable():
        wrong = "characters that no key holds"
    elif value != value.strip() or value[0] in "'\"":
        wrong = "blanks or quotes around the key"
    if wrong:
        raise UserError(
            f"the environment variable {name} holds {wrong}",
            hint="set it to the key alone, one line of plain letters",
            exit_code=EXIT_MISSING,
        )
    return value


def filled_in(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Values with references replaced from the environment, and the list of secrets among them.

    Raises:
        UserError: see `read_key`.
    """
    secrets: list[str] = []

    def look_up(found: re.Match[str]) -> str:
        secrets.append(read_key(found[1]))
        return secrets[-1]

    return {name: _REFERENCE.sub(look_up, value) for name, value in values.items()}, secrets


def masked(text: str, secrets: Iterable[str]) -> str:
    """Text with secrets removed, in case an endpoint repeated them."""
    for secret in secrets:
        if len(secret) >= LEAST_CHARS:
            text = text.replace(secret, "***")
    return text
