"""One model of one endpoint: its client, secrets and pace, and a request whose body is bounded while it is read."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from dataclasses import dataclass

import httpx2

from evolve.config import ModelConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposers.refusals import Wire
from evolve.secrets import filled_in, masked, read_key

MAX_BODY_BYTES = 16 * 2**20
"""Longest body that is read, compressed or not; a whole program has 64 KiB at most."""

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class BodyTooLarge(Exception):
    """A body longer than `MAX_BODY_BYTES`; the rest was not read."""


class Unreachable(Exception):
    """No whole response came; the message says what happened."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """Asks one model."""

    def __init__(self, config: ModelConfig, timeout_s: float) -> None:
        """Open the client.

        Raises:
            UserError: a key is missing or malformed, or a variable for proxies or certificates is wrong.
        """
        self.config, self._timeout_s = config, timeout_s
        key = [read_key(config.api_key_env)] if config.api_key_env else []
        headers, in_headers = filled_in(config.headers)
        self._query, in_query = filled_in(config.query)
        self._secrets = [*key, *in_headers, *in_query]
        # Compressed bodies would have to be bounded twice; answers are small.
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "evosplit"}
        self._headers |= {"Authorization": f"Bearer {key[0]}"} if key else {}
        self._headers |= headers
        self._client = _client(timeout_s)
        limit_name = "max_completion_tokens" if config.max_completion_tokens else "max_tokens"
        self.configured = Wire(config.temperature, limit_name, config.answer_tokens, config.seeded)
        self.wire = self.configured
        """How it is asked by now: changed where the endpoint refused something."""
        self._not_before = 0.0

    @property
    def name(self) -> str:
        """The model's."""
        return self.config.name

    def mask(self, text: str) -> str:
        """Text without this endpoint's secrets."""
        return masked(text, self._secrets)

    def hold(self, seconds: float) -> None:
        """Begin no call to this model before so many seconds have passed."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def turn(self) -> None:
        """Wait until the next call may begin: calls of a model keep their distance, and heed what it asked for."""
        gap = 60.0 / self.config.requests_per_minute if self.config.requests_per_minute else 0.0
        now = time.monotonic()
        start = max(now, self._not_before)
        self._not_before = start + gap if gap else self._not_before
        if start > now:
            await asyncio.sleep(start - now)

    async def post(self, system: str, messages: list[dict[str, str]], wire: Wire, *, seed: int, prompt_tokens: int,
                   idempotency_key: str) -> Reply:  # fmt: skip
        """Send one request and read its response.

        Args:
            system: system message.
            messages: what follows it, the user's first.
            wire: how to ask.
            seed: of the proposal.
            prompt_tokens: of all messages, as estimated.
            idempotency_key: the same for the same call, so that an endpoint that knows such keys bills it once.

        Raises:
            BodyTooLarge: the body was not read to its end.
            Unreachable: no connection, no whole response, or none in time.
        """
        if wire.merged:
            first, *rest = messages
            sent = [{**first, "content": f"{system}\n\n{first['content']}"}, *rest]
        else:
            sent = [{"role": "system", "content": system}, *messages]
        config = self.config
        effort = {"reasoning_effort": config.reasoning_effort} if config.reasoning_effort else {}
        options = wire.options(seed, prompt_tokens)
        body = {"model": config.name, "messages": sent, **options, **effort, **config.extra_body}
        request = self._client.build_request(
            "POST",
            f"{config.base_url}/chat/completions",
            params=self._query or None,
            headers={**self._headers, "Idempotency-Key": idempotency_key},
            json=body,
        )
        try:
            # The client's own timeout starts anew with each byte; a slow stream needs one over all.
            return await asyncio.wait_for(self._read(request), self._timeout_s)
        except (TimeoutError, httpx2.TimeoutException):
            raise Unreachable(f"no answer within proposer.timeout_s = {self._timeout_s:g} seconds") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, zlib.error) as error:
            raise Unreachable(self.mask(f"{type(error).__name__}: {error}".rstrip(": "))) from None

    async def _read(self, request: httpx2.Request) -> Reply:
        response = await self._client.send(request, stream=True)
        try:
            body = await _bounded_body(response)
        finally:
            await response.aclose()
        return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()


async def _bounded_body(response: httpx2.Response) -> bytes:
    """A body, decompressed where an endpoint compresses it though asked not to."""
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise zlib.error(f"a body in the coding {coding[:20]!r}, which was not asked for")
    unpack = None if coding in ("identity", "") else zlib.decompressobj(wbits=47)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk if unpack is None else unpack.decompress(chunk, MAX_BODY_BYTES + 1 - len(body))
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is longer than {MAX_BODY_BYTES // 2**20} MiB: it was not read to its end")
    return bytes(body)


def _client(timeout_s: float) -> httpx2.AsyncClient:
    """A client with the proxies and certificates of the environment.

    Raises:
        UserError: one of the variables is wrong; the message names it.
    """
    try:
        return httpx2.AsyncClient(timeout=timeout_s, follow_redirects=False)
    except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
        wanted: tuple[str, ...] = PROXY_VARIABLES
        if isinstance(error, OSError):
            wanted = tuple(n for n in CERTIFICATE_VARIABLES if n in os.environ and not os.path.exists(os.environ[n]))
            wanted = wanted or CERTIFICATE_VARIABLES
        named = [name for name in wanted if os.environ.get(name)]
        why = "names a file or folder that cannot be read" if isinstance(error, OSError) else "cannot be used"
        hint = "set or unset it: the connections to endpoints heed it"
        if isinstance(error, ImportError):
            why, hint = "names a SOCKS proxy, which needs a further package", "pip install socksio, or unset it"
        raise UserError(
            f"the environment variable {' or '.join(named) or 'of a proxy or certificate'} {why}",
            hint=hint,
            exit_code=EXIT_MISSING,
        ) from None
