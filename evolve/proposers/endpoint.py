"""One model of one endpoint: client, secrets, rate limit, and requests with a bounded response body.

The `openai` client sends the requests. Its HTTP library, httpx or httpx2, depends on its version, so neither is
imported here: requests and responses come from the client.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evolve.errors import EXIT_MISSING, UserError
from evolve.proposer_config import ModelConfig
from evolve.proposers.refusals import Wire
from evolve.secrets import filled_in, masked, read_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_BODY_BYTES = 16 * 2**20
"""Longest body that is read, compressed or not; a program has 64 KiB at most."""

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

CLIENT_HEADERS = {"host", "connection", "content-type", "content-length", "cookie", "idempotency-key"}
"""Headers set by the client; all others are set here or in the configuration."""


class BodyTooLarge(Exception):
    """A body longer than `MAX_BODY_BYTES`; the rest was not read."""


class Unreachable(Exception):
    """No complete response arrived; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A complete HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """Client of one model."""

    def __init__(self, config: ModelConfig, timeout_s: float) -> None:
        """Open the client.

        Raises:
            UserError: a key is missing or malformed, the base URL or a variable for proxies or certificates is wrong.
        """
        self.config, self._timeout_s = config, timeout_s
        key = [read_key(config.api_key_env)] if config.api_key_env else []
        headers, in_headers = filled_in(config.headers)
        query, in_query = filled_in(config.query)
        self._secrets = [*key, *in_headers, *in_query]
        # Compressed bodies would have to be bounded twice; answers are small.
        own = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "evosplit"}
        own |= {"authorization": f"Bearer {key[0]}"} if key else {}
        own |= {name.lower(): value for name, value in headers.items()}
        self._client = _client(config.base_url, own, query, timeout_s)
        limit_name = "max_completion_tokens" if config.max_completion_tokens else "max_tokens"
        self.configured = Wire(config.temperature, limit_name, config.answer_tokens, config.seeded)
        self.wire = self.configured
        """Form of requests, adapted after refusals of the endpoint."""
        self._not_before = 0.0

    @property
    def name(self) -> str:
        """The model's."""
        return self.config.name

    def mask(self, text: str) -> str:
        """Remove this endpoint's secrets from a text."""
        return masked(text, self._secrets)

    def hold(self, seconds: float) -> None:
        """Delay further calls to this model for this many seconds."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def turn(self) -> None:
        """Wait until the next call may begin, by the rate limit and the delays that the endpoint requested."""
        gap = 60.0 / self.config.requests_per_minute if self.config.requests_per_minute else 0.0
        now = time.monotonic()
        start = max(now, self._not_before)
        self._not_before = start + gap if gap else self._not_before
        if start > now:
            await asyncio.sleep(start - now)

    async def post(self, system: str, messages: list[dict[str, Any]], wire: Wire, *, seed: int, prompt_tokens: int,
                   idempotency_key: str, tools: Sequence[dict[str, Any]] = ()) -> HttpReply:  # fmt: skip
        """Send one request and read its response.

        The first of `messages` is the user's. `idempotency_key` is unique per call, so that an endpoint that supports
        such keys bills it once; `tools` are those that the model may call.

        Raises:
            BodyTooLarge: the body exceeds the limit.
            Unreachable: no connection, an incomplete response, or none in time.
        """
        from openai import APIConnectionError, APIStatusError, APITimeoutError, HttpxBinaryResponseContent

        if wire.merged:
            first, *rest = messages
            sent = [{**first, "content": f"{system}\n\n{first['content']}"}, *rest]
        else:
            sent = [{"role": "system", "content": system}, *messages]
        config = self.config
        effort = {"reasoning_effort": config.reasoning_effort} if config.reasoning_effort else {}
        options = wire.options(seed, prompt_tokens)
        offered = {"tools": list(tools)} if tools else {}
        body = {"model": config.name, "messages": sent, **offered, **options, **effort, **config.extra_body}
        request = self._client.post(
            "/chat/completions",
            cast_to=HttpxBinaryResponseContent,
            body=body,
            options={"headers": {"Idempotency-Key": idempotency_key}},
        )
        try:
            # The client's own timeout restarts with each byte; a slow stream needs an overall one.
            response = (await asyncio.wait_for(request, self._timeout_s)).response
        except APIStatusError as error:
            response = error.response
        except (TimeoutError, APITimeoutError):
            raise Unreachable(f"no answer within proposer.timeout_s = {self._timeout_s:g} seconds") from None
        except (APIConnectionError, OSError, zlib.error) as error:
            # Some versions of the client wrap all errors, others only those of httpx.
            cause = error.__cause__ if isinstance(error, APIConnectionError) and error.__cause__ else error
            if isinstance(cause, BodyTooLarge):
                raise cause from None
            raise Unreachable(self.mask(f"{type(cause).__name__}: {cause}".rstrip(": "))) from None
        return HttpReply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


async def _read_bounded(response: Any) -> None:
    """Read a response's body, decompressed and bounded, and store it in the response for the client.

    Raises:
        BodyTooLarge: the body exceeds the limit.
        zlib.error: unrequested coding, or damaged.
    """
    body = await _bounded_body(response)
    response.stream = type(response)(response.status_code, content=body).stream
    response.is_closed = response.is_stream_consumed = False
    response.headers.pop("content-encoding", None)
    # The client decodes an error's body by the endpoint's charset, which may be a codec such as `zlib` or `hex`.
    response.encoding = "utf-8"


async def _bounded_body(response: Any) -> bytes:
    """Read a body, decompressed if an endpoint compresses it despite the request."""
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


def _client(base_url: str, headers: dict[str, str], query: dict[str, str], timeout_s: float) -> AsyncOpenAI:
    """Open a client that sends only these headers, with the proxies and certificates of the environment.

    Raises:
        UserError: the base URL or one of the variables is wrong; the message names it.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    async def send_ours_alone(request: Any) -> None:
        # The client adds its platform, and from the environment an organisation, a project and arbitrary headers.
        for name in set(request.headers) - CLIENT_HEADERS:
            del request.headers[name]
        request.headers.update(headers | {"idempotency-key": request.headers["idempotency-key"]})

    hooks: dict[str, list[Any]] = {"request": [send_ours_alone], "response": [_read_bounded]}
    try:
        http_client = DefaultAsyncHttpxClient(timeout=timeout_s, follow_redirects=False, event_hooks=hooks)
    except Exception as error:  # httpx's InvalidURL has no other base class; only the environment can be wrong
        raise _wrong_variable(error) from None
    try:
        return AsyncOpenAI(
            api_key="in the headers",  # if there is one; prevents the client from looking for another
            base_url=base_url,
            default_query=query,
            timeout=timeout_s,
            max_retries=0,
            http_client=http_client,
        )
    except Exception as error:
        raise UserError(f"proposer.base_url cannot be used: {error}", hint="expected https://HOST/PATH") from None


def _wrong_variable(error: Exception) -> UserError:
    """Error that names the environment variable (proxies, certificates) behind `error`."""
    wanted: tuple[str, ...] = PROXY_VARIABLES
    if isinstance(error, OSError):
        wanted = tuple(n for n in CERTIFICATE_VARIABLES if n in os.environ and not os.path.exists(os.environ[n]))
        wanted = wanted or CERTIFICATE_VARIABLES
    named = [name for name in wanted if os.environ.get(name)]
    why = "names a file or folder that cannot be read" if isinstance(error, OSError) else "cannot be used"
    hint = "set or unset it: the connections to endpoints heed it"
    if isinstance(error, ImportError):
        why, hint = "names a SOCKS proxy, which needs a further package", "pip install socksio, or unset it"
    return UserError(
        f"the environment variable {' or '.join(named) or 'of a proxy or certificate'} {why}",
        hint=hint,
        exit_code=EXIT_MISSING,
    )
