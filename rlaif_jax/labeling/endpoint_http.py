# SPDX-License-Identifier: Apache-2.0
"""HTTP client of an endpoint: no redirects, and responses of bounded size."""

from __future__ import annotations

import logging
import ssl
import types
import urllib.parse
import zlib
from http import cookiejar
from typing import TYPE_CHECKING, AsyncIterator, Protocol

from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import response_parsing

if TYPE_CHECKING:
  import openai as openai_types

# Bytes of a response after decompression: a text of 100,000 tokens, or 1,000
# tokens with the log-probs of 20 alternatives each, with room to spare.
MAX_RESPONSE_BYTES = 8 * 2**20

# They describe a body as it is sent.
_BODY_HEADERS = (b"content-encoding", b"content-length", b"transfer-encoding")


class DamagedResponse(ValueError):
  """A body cannot be decompressed."""


class ResponseTooLarge(ValueError):
  """A response has more than `MAX_RESPONSE_BYTES`."""


class RawResponse(Protocol):
  """The part of an httpx response that is read."""

  def aiter_raw(self) -> AsyncIterator[bytes]:
    """Yields the body as it is sent."""
    ...


def make_client(
  openai: types.ModuleType,
  config: endpoint_config.EndpointConfig,
  key: str,
) -> "openai_types.AsyncOpenAI":
  """Returns a client that never holds more of a response than allowed.

  It retries nothing, keeps no cookies and follows no redirects, so that no
  other host gets the API key.

  Args:
    openai: the module.
    config: settings of the endpoint.
    key: API key, "" if the endpoint needs none.
  """
  for name in ("httpx", "httpx2"):  # They log one line per request.
    logging.getLogger(name).setLevel(logging.WARNING)
  host = urllib.parse.urlsplit(config.base_url).hostname or ""
  is_local = host.startswith("127.") or host in ("localhost", "::1")
  bounded = _bounded(openai.DefaultAsyncHttpxClient)
  return openai.AsyncOpenAI(
    api_key=key or "none",
    base_url=config.base_url or None,
    max_retries=0,
    timeout=config.timeout_seconds,
    # A proxy from the environment cannot reach this machine.
    # A cookie of one response would go into all later requests.
    http_client=bounded(
      trust_env=not is_local,
      cookies=cookiejar.CookieJar(
        cookiejar.DefaultCookiePolicy(allowed_domains=())
      ),
    ),
  )


def _bounded(base: type) -> type:
  """Returns a subclass of httpx's AsyncClient; see `make_client`."""

  class BoundedClient(base):
    async def send(self, request, *, stream=False, **options):
      del stream  # The whole body is read here.
      options["follow_redirects"] = False
      request.headers["Accept-Encoding"] = "gzip"
      response = await super().send(request, stream=True, **options)
      try:
        encoding = response.headers.get("content-encoding", "")
        body = await read_body(response, encoding.strip().lower())
      finally:
        await response.aclose()
      headers = [
        (name, value)
        for name, value in response.headers.raw  # bytes of any encoding
        if name.lower() not in _BODY_HEADERS
      ]
      return type(response)(
        response.status_code,
        headers=headers,
        content=body,
        request=request,
        extensions=response.extensions,
      )

  return BoundedClient


async def read_body(response: RawResponse, encoding: str) -> bytes:
  """Reads and decompresses a body.

  Args:
    response: the response, whose body is not read yet.
    encoding: its content encoding in lower case.

  Raises:
    ResponseTooLarge: the decompressed body has more than `MAX_RESPONSE_BYTES`.
      Not more than that is decompressed.
    DamagedResponse: the encoding is neither gzip nor identity, or the data are
      damaged.
  """
  if encoding not in ("", "identity", "gzip", "x-gzip"):
    raise DamagedResponse(f"unknown content encoding {encoding!r:.40}")
  decoder = None
  if encoding.endswith("gzip"):
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
  body = bytearray()
  async for chunk in response.aiter_raw():
    if decoder is not None:
      try:
        chunk = decoder.decompress(chunk, MAX_RESPONSE_BYTES + 1 - len(body))
      except zlib.error as error:
        raise DamagedResponse(f"damaged gzip data: {error}") from error
    body += chunk
    if len(body) > MAX_RESPONSE_BYTES:
      raise ResponseTooLarge(
        f"the response has more than {MAX_RESPONSE_BYTES >> 20} MiB"
      )
  return bytes(body)


def parse_failure(
  error: Exception, limits: costs.RequestLimits
) -> response_parsing.Outcome:
  """Returns the outcome of a request without a whole response.

  Args:
    error: the client's error; its causes say what happened.
    limits: limits of the request's usage. A response that is too large counts
      as the largest usage.
  """
  chain: list[BaseException] = []
  cause: BaseException | None = error
  while cause is not None and cause not in chain:
    chain.append(cause)
    cause = cause.__cause__ or cause.__context__
  for cause in chain:
    if isinstance(cause, ResponseTooLarge):
      return response_parsing.Outcome(
        usage=limits.max_usage() + records.Usage(estimated=1),
        error=str(cause),
        kind="bad_request",
      )
    if isinstance(cause, ssl.SSLCertVerificationError):
      why = cause.verify_message or "verification failed"
      return response_parsing.Outcome(
        error=f"the TLS certificate of the server is not valid: {why}. What to "
        "do: check EndpointConfig.base_url and the clock of this machine; for "
        "a certificate authority of your own, set the environment variable "
        "SSL_CERT_FILE to its file",
        kind="permanent",
      )
    if isinstance(cause, DamagedResponse):
      return response_parsing.Outcome(error=str(cause))
    if isinstance(cause, (RecursionError, UnicodeError)):
      # An error in JSON that is too deep to print, or a prompt in no Unicode.
      what = f"the request failed ({type(cause).__name__})"
      return response_parsing.Outcome(error=what, kind="bad_request")
  # Without the message, which may quote the request.
  what = type(error.__cause__ or error).__name__
  return response_parsing.Outcome(error=f"the connection was lost ({what})")
