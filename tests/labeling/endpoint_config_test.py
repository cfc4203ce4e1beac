# SPDX-License-Identifier: Apache-2.0
"""Settings of an endpoint: wrong ones are told, and keys stay unseen."""

from __future__ import annotations

import math

import pytest

from rlaif_jax.labeling import endpoint_config

KEY = "sk-canary-0123456789"


def test_a_key_comes_from_the_environment_and_is_never_echoed(monkeypatch):
  monkeypatch.delenv("MY_KEY", raising=False)
  config = endpoint_config.EndpointConfig(model="m", api_key_variable="MY_KEY")
  with pytest.raises(ValueError, match="MY_KEY holds no API key"):
    endpoint_config.read_key(config)
  monkeypatch.setenv("MY_KEY", f"{KEY}\u00e9")
  with pytest.raises(ValueError, match="MY_KEY holds no API key") as error:
    endpoint_config.read_key(config)
  assert KEY not in str(error.value)
  monkeypatch.setenv("MY_KEY", KEY + "\n")
  assert endpoint_config.read_key(config) == KEY
  assert KEY not in repr(config)


def test_a_labeler_is_named_by_what_changes_its_labels():
  config = endpoint_config.EndpointConfig(
    model="m", max_retries=1, token_limit="max_completion_tokens"
  )
  assert endpoint_config.describe_settings(config) == ""
  config = endpoint_config.EndpointConfig(model="m", top_logprobs=5)
  assert endpoint_config.describe_settings(config) == " (top_logprobs=5)"


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"model": ""}, "model is empty"),
    ({"api": "responses"}, "api is 'responses'"),
    ({"base_url": "127.0.0.1:8000"}, "base_url must have only"),
    ({"base_url": "http://me:hidden@host/v1"}, "base_url must have only"),
    ({"base_url": "http://host/v1?key=hidden"}, "base_url must have only"),
    ({"max_concurrency": 0}, "max_concurrency is 0"),
    ({"timeout_seconds": math.nan}, "timeout_seconds is nan"),
    ({"max_retries": -1}, "max_retries is -1"),
    ({"first_backoff_seconds": 99.0}, "first_backoff_seconds is 99"),
    ({"top_logprobs": 0}, "top_logprobs is 0"),
    ({"answer_tokens": -1}, "answer_tokens is -1"),
    ({"token_limit": "tokens"}, "token_limit is 'tokens'"),
    (
      {"leave_out": ("logprobs",)},
      r"leave_out is .*logprobs.*each element: use one of",
    ),
  ],
)
def test_wrong_settings_are_errors(settings, message):
  with pytest.raises(ValueError, match=message) as error:
    endpoint_config.EndpointConfig(**{"model": "m", **settings})
  assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
  "name",
  [
    KEY,
    "",
    "MY KEY",
    "1KEY",
    "$MY_KEY",
    "hf_canaryabcdefghijkl",
    "gsk_canary",
    "canary0123456789abcdef",
    "0123456789canaryabcdef",
  ],
)
def test_a_key_in_place_of_its_variables_name_is_refused_unseen(name):
  with pytest.raises(ValueError, match="export OPENAI_API_KEY") as error:
    endpoint_config.EndpointConfig(model="m", api_key_variable=name)
  assert "canary" not in str(error.value)


@pytest.mark.parametrize("name", ["A", "_my_key", "MY_COMPANYS_LLM_2_API_KEY"])
def test_names_of_variables_are_names(name):
  endpoint_config.EndpointConfig(model="m", api_key_variable=name)
