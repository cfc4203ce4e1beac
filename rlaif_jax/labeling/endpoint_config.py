# SPDX-License-Identifier: Apache-2.0
"""Settings and API key of an OpenAI-compatible endpoint."""

from __future__ import annotations

import dataclasses
import os
import re
import urllib.parse
from typing import Annotated, Literal

from rlaif_jax.core import validation

# Of keys that would be valid names.
_KEY_PREFIXES = ("sk_", "pk_", "hf_", "gsk_", "ghp_", "xai_", "AIza", "AKIA")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig(validation.Validated):
  """Settings of an endpoint and its requests.

  Fields:
    model: name of the model at the endpoint.
    base_url: URL such as "http://127.0.0.1:8000/v1"; "" is the client's
      default.
    api: "chat" sends a prompt as one user message; "completions" continues it.
    max_concurrency: maximum number of concurrent requests.
    timeout_seconds: limit of one request, from start to end.
    max_retries: retries of a prompt after transient errors.
    first_backoff_seconds: upper bound of the first wait; doubles each retry.
    max_backoff_seconds: upper bound of any wait, including Retry-After.
    top_logprobs: number of tokens whose log-probs a response lists at each
      position.
    answer_tokens: tokens generated to score options; 0 is the number of
      characters of the longest option. A leading blank token needs one more.
    send_top_k: sends top_k, which the OpenAI API does not have.
    token_limit: name of the output limit; some OpenAI models need
      "max_completion_tokens".
    leave_out: parameters that the server does not accept, such as
      ("temperature", "seed"). Its defaults apply, and the provenance of the
      labels records this.
    api_key_variable: name of the environment variable that holds the API key.
  """

  model: str
  base_url: str = ""
  api: Literal["chat", "completions"] = "chat"
  # The limit of the client.
  max_concurrency: Annotated[int, validation.Bounds(ge=1, le=1000)] = 16
  timeout_seconds: Annotated[float, validation.Bounds(ge=1e-3)] = 120.0
  max_retries: Annotated[int, validation.Bounds(ge=0, le=100)] = 6
  first_backoff_seconds: validation.NonNegativeFloat = 1.0
  max_backoff_seconds: Annotated[float, validation.Bounds(ge=0, le=86400)] = (
    60.0
  )
  top_logprobs: validation.PositiveInt = 20
  answer_tokens: validation.NonNegativeInt = 0
  send_top_k: bool = False
  token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
  leave_out: tuple[Literal["temperature", "seed", "stop"], ...] = ()
  api_key_variable: str = "OPENAI_API_KEY"

  def __post_init__(self):
    super().__post_init__()
    if not self.model:
      raise ValueError("EndpointConfig.model is empty; set the name of a model")
    if _looks_like_key(self.api_key_variable):
      raise ValueError(  # without the value, which may be a key
        "EndpointConfig.api_key_variable must be the name of an environment "
        "variable, such as 'OPENAI_API_KEY', and its value is none or looks "
        "like a key; put the key into the environment: export "
        "OPENAI_API_KEY=..."
      )
    url = urllib.parse.urlsplit(self.base_url)
    is_plain = url.scheme in ("http", "https") and bool(url.hostname)
    if "@" in url.netloc or url.query or not is_plain and self.base_url:
      raise ValueError(  # without the URL, which may hold a secret
        "EndpointConfig.base_url must have only scheme, host and path, such as "
        "'http://127.0.0.1:8000/v1'; put the key into the environment variable "
        f"{self.api_key_variable}"
      )
    if self.first_backoff_seconds > self.max_backoff_seconds:
      raise ValueError(
        "EndpointConfig.first_backoff_seconds is "
        f"{self.first_backoff_seconds}; it must be <= max_backoff_seconds, "
        f"{self.max_backoff_seconds}"
      )


def _looks_like_key(name: str) -> bool:
  """Returns whether a text is an API key, or no name of a variable."""
  is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
  has_prefix = name.startswith(_KEY_PREFIXES)
  is_random = len(name) >= 20 and bool(re.search(r"[a-z].*\d|\d.*[a-z]", name))
  return not is_name or has_prefix or is_random


def describe_settings(config: EndpointConfig) -> str:
  """Returns non-default settings that affect labels, "" if there are none."""
  changed = [
    f"{name}={getattr(config, name)}"
    for name in (
      "api",
      "top_logprobs",
      "answer_tokens",
      "send_top_k",
      "leave_out",
    )
    if getattr(config, name) != getattr(EndpointConfig, name)
  ]
  return f" ({', '.join(changed)})" if changed else ""


def read_key(config: EndpointConfig) -> str:
  """Reads the API key from the environment; "" with `base_url` and no key.

  Raises:
    ValueError: the key is missing or not printable ASCII.
  """
  key = os.environ.get(config.api_key_variable, "").strip()
  is_ascii = key.isascii() and key.isprintable()
  if not is_ascii or not (key or config.base_url):
    raise ValueError(
      f"the environment variable {config.api_key_variable} holds no API key; "
      "set it, or set EndpointConfig.base_url to a server that needs no key"
    )
  return key
