# SPDX-License-Identifier: Apache-2.0
"""Scaled rotary frequencies in Hugging Face's config.json."""

from __future__ import annotations

import math

from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.models import architecture_options as options_lib


def from_hf(
  values: names.JsonObject, max_length: int
) -> options_lib.RopeScaling | None:
  """Returns the scaling of `rope_scaling` or `rope_parameters`.

  Args:
    values: the object in config.json.
    max_length: of the model, for files without the original length.

  Raises:
    ValueError: an unsupported scaling, or a missing key.
  """
  kind = values.get("rope_type", values.get("type", "default"))
  if kind == "default":
    return None
  if kind == "linear":
    factor = parsing.field(values, "factor", float)
    return options_lib.RopeScaling(kind="linear", factor=factor)
  if kind == "llama3":
    return options_lib.RopeScaling(
      kind="llama3",
      factor=parsing.field(values, "factor", float),
      low_frequency_factor=parsing.field(values, "low_freq_factor", float),
      high_frequency_factor=parsing.field(values, "high_freq_factor", float),
      original_length=parsing.field(
        values, "original_max_position_embeddings", int
      ),
    )
  if kind == "yarn":
    return _yarn(values, max_length)
  raise ValueError(
    f"rope scaling of type {kind!r}; supported are default, linear, llama3 and "
    "yarn"
  )


def _yarn(values: names.JsonObject, max_length: int) -> options_lib.RopeScaling:
  names.require(values, "truncate", True, None)
  names.require(values, "mscale", None, 0, 0.0)
  names.require(values, "mscale_all_dim", None, 0, 0.0)
  factor = parsing.field(values, "factor", float)
  grows = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
  return options_lib.RopeScaling(
    kind="yarn",
    factor=factor,
    low_frequency_factor=float(parsing.field(values, "beta_slow", float, 1.0)),
    high_frequency_factor=float(
      parsing.field(values, "beta_fast", float, 32.0)
    ),
    original_length=parsing.field(
      values, "original_max_position_embeddings", int, max_length
    ),
    attention_factor=parsing.field(values, "attention_factor", float, grows),
  )


def to_hf(
  scaling: options_lib.RopeScaling | None,
) -> names.JsonObject | None:
  """Returns the `rope_scaling` of config.json; the inverse of `from_hf`."""
  if scaling is None:
    return None
  values = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    values |= {
      "low_freq_factor": scaling.low_frequency_factor,
      "high_freq_factor": scaling.high_frequency_factor,
      "original_max_position_embeddings": scaling.original_length,
    }
  if scaling.kind == "yarn":
    values |= {
      "beta_slow": scaling.low_frequency_factor,
      "beta_fast": scaling.high_frequency_factor,
      "original_max_position_embeddings": scaling.original_length,
      "attention_factor": scaling.attention_factor,
    }
  return values
