# SPDX-License-Identifier: Apache-2.0
"""Which endpoint labels, how patiently it is asked, and the key to it."""

from __future__ import annotations

import dataclasses
import math
import os
import urllib.parse

TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")

# What a request may do without.
OPTIONAL = ("temperature", "seed", "stop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointConfig:
  """Which endpoint labels, and how patiently it is asked.

  Fields:
    model: its name at the endpoint.
    base_url: such as "http://127.0.0.1:8000/v1"; "" is the client's default.
    api: "chat" makes a prompt one user message; "completions" continues it.
    max_concurrency: requests that are under way at once.
    timeout_seconds: of one request, all in all.
    max_retries: how often a prompt is asked again after faults.
    first_backoff_seconds: bound of the first wait; each next is twice that.
    max_backoff_seconds: bound of any wait, a server's Retry-After included.
    top_logprobs: tokens that a reply lists at each position.
    answer_tokens: tokens written where options are scored; 0: as many as the
      longest option has characters. A blank token at the start needs one more.
    send_top_k: the server takes top_k, which is not of the OpenAI API.
    token_limit: what the server calls the limit of an answer; some of OpenAI's
      models want "max_completion_tokens".
    leave_out: settings that the server does not take, such as ("temperature",
      "seed"); its own defaults then hold, and the labels' provenance says so.
    api_key_variable: environment variable that holds the key.
  """

  model: str
  base_url: str = ""
  api: str = "chat"
  max_concurrency: int = 16
  timeout_seconds: float = 120.0
  max_retries: int = 6
  first_backoff_seconds: float = 1.0
  max_backoff_seconds: float = 60.0
  top_logprobs: int = 20
  answer_tokens: int = 0
  send_top_k: bool = False
  token_limit: str = "max_tokens"
  leave_out: tuple[str, ...] = ()
  api_key_variable: str = "OPENAI_API_KEY"

  def __post_init__(self):
    if not self.model:
      raise ValueError("model is empty; name a model of the endpoint")
    url = urllib.parse.urlsplit(self.base_url)
    is_plain = url.scheme in ("http", "https") and bool(url.hostname)
    if "@" in url.netloc or url.query or not is_plain and self.base_url:
      raise ValueError(  # that does not show it: it may hold a secret
        "base_url is not scheme, host and path alone; it should be like "
        "'http://127.0.0.1:8000/v1', with the key in the environment variable "
        f"{self.api_key_variable}"
      )
    if self.api not in ("chat", "completions"):
      raise ValueError(f"api is {self.api!r}; take 'chat' or 'completions'")
    if self.token_limit not in TOKEN_LIMITS:
      raise ValueError(
        f"token_limit is {self.token_limit!r}; take one of {TOKEN_LIMITS}"
      )
    kept = [name for name in self.leave_out if name not in OPTIONAL]
    if kept:
      raise ValueError(f"leave_out has {kept}; it may have any of {OPTIONAL}")
    bounds = {
      "max_concurrency": (1, 1000),  # The client opens no more connections.
      "timeout_seconds": (1e-3, math.inf),
      "max_retries": (0, 100),
      "first_backoff_seconds": (0, self.max_backoff_seconds),
      "max_backoff_seconds": (0, 86400),
      "top_logprobs": (1, math.inf),
      "answer_tokens": (0, math.inf),
    }
    for field, (least, most) in bounds.items():
      value = getattr(self, field)
      if not least <= value <= most:
        raise ValueError(f"{field} is {value}; take {least} to {most}")


def settings(config: EndpointConfig) -> str:
  """What labels depend on besides the model, where it is not the default."""
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
  """The key of the environment; servers of one's own need none.

  Raises:
    ValueError: there is none, or it is no key.
  """
  key = os.environ.get(config.api_key_variable, "").strip()
  is_ascii = key.isascii() and key.isprintable()
  if not is_ascii or not (key or config.base_url):
    raise ValueError(
      f"the environment variable {config.api_key_variable} holds no key; put "
      "the endpoint's key there, or give base_url of a server that needs none"
    )
  return key
