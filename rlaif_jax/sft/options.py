# SPDX-License-Identifier: Apache-2.0
"""Checks the options of SFT that depend on each other."""

from __future__ import annotations

from rlaif_jax.core import lora_config
from rlaif_jax.data import converters
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder


def check(
  config: architectures.Config | None,
  sequence: converters.SequenceConfig | None,
  *,
  context_weight: float,
  init_from: str,
  lora: lora_config.LoraConfig | None,
) -> None:
  """Checks that sizes and lengths are known, and that options fit each other.

  Args:
    config: sizes of the model.
    sequence: lengths of a row.
    context_weight: loss weight of each context token.
    init_from: model to start from; "": none.
    lora: adapters to train.

  Raises:
    ValueError: if something is missing, or options conflict.
  """
  if lora is not None and not init_from:
    raise ValueError(
      "OptimizerConfig.lora is set and train_sft.init_from is ''; set "
      "init_from to the model that the adapters are for"
    )
  if config is None or sequence is None:
    raise ValueError(
      "train_sft: set model and SFTData.sequence, or init_from to take both "
      "from a finished model"
    )
  if context_weight and not isinstance(config, decoder.DecoderConfig):
    raise ValueError(
      f"SFTData.context_weight is {context_weight}; an encoder-decoder does "
      "not predict its prompt, set it to 0"
    )
