# SPDX-License-Identifier: Apache-2.0
"""Architectures by name: their config classes and model functions.

Jobs and checkpoints name an architecture; the type of a config selects it.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from rlaif_jax.core import protocols
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import layers
from rlaif_jax.models import small_world
from rlaif_jax.models import t5

Config = decoder.DecoderConfig | small_world.SmallWorldConfig | t5.T5Config
ForwardOptions = layers.ForwardOptions


class Architecture(NamedTuple):
  """A config class with the functions that make models of it."""

  config: type
  language: Callable[..., protocols.LanguageModel]
  scalar: Callable[..., protocols.ScalarModel]


ARCHITECTURES = {
  "decoder": Architecture(
    decoder.DecoderConfig, decoder.functions, heads.functions
  ),
  "small_world": Architecture(
    small_world.SmallWorldConfig,
    small_world.functions,
    small_world.scalar_functions,
  ),
  "t5": Architecture(t5.T5Config, t5.functions, t5.scalar_functions),
}


def name_of(config: Config) -> str:
  """Returns the name of a config's architecture.

  Raises:
    ValueError: the type of the config belongs to no architecture.
  """
  for name, row in ARCHITECTURES.items():
    if type(config) is row.config:
      return name
  raise ValueError(
    f"{type(config).__name__} is not a model config; use one of "
    f"{[row.config.__name__ for row in ARCHITECTURES.values()]}"
  )


def language(
  config: Config, options: ForwardOptions = layers.DEFAULT_OPTIONS
) -> protocols.LanguageModel:
  """Returns the functions of a language model.

  Args:
    config: sizes, of one of ARCHITECTURES.
    options: how the functions run.

  Raises:
    ValueError: see `name_of`.
  """
  return ARCHITECTURES[name_of(config)].language(config, options)


def scalar(
  config: Config, options: ForwardOptions = layers.DEFAULT_OPTIONS
) -> protocols.ScalarModel:
  """Returns the functions of a reward model or value network.

  See `language` for the arguments.
  """
  return ARCHITECTURES[name_of(config)].scalar(config, options)
