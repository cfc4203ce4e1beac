# SPDX-License-Identifier: Apache-2.0
"""The architectures by name: their configs, and their functions by config.

Jobs and files say which architecture a model has; everything else is in the
type of its config.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from rlaif_jax.core import protocols
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import layers
from rlaif_jax.models import t5

Config = decoder.DecoderConfig | t5.T5Config
Execution = layers.Execution


class Architecture(NamedTuple):
  """A config class with the model functions that read it."""

  config: type
  language: Callable[..., protocols.LanguageModel]
  scalar: Callable[..., protocols.ScalarModel]


ARCHITECTURES = {
  "decoder": Architecture(
    decoder.DecoderConfig, decoder.functions, heads.functions
  ),
  "t5": Architecture(t5.T5Config, t5.functions, t5.scalar_functions),
}


def name_of(config: Config) -> str:
  """The architecture that a config is of.

  Raises:
    ValueError: of none.
  """
  for name, row in ARCHITECTURES.items():
    if isinstance(config, row.config):
      return name
  raise ValueError(
    f"{type(config).__name__} is no model config; use one of "
    f"{[row.config.__name__ for row in ARCHITECTURES.values()]}"
  )


def language(
  config: Config, how: Execution = layers.PLAIN
) -> protocols.LanguageModel:
  """The functions of a language model of these sizes.

  Args:
    config: sizes.
    how: it is run.
  """
  return ARCHITECTURES[name_of(config)].language(config, how)


def scalar(
  config: Config, how: Execution = layers.PLAIN
) -> protocols.ScalarModel:
  """The functions of a reward model or value network; see `language`."""
  return ARCHITECTURES[name_of(config)].scalar(config, how)
