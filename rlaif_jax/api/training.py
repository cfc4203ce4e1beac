# SPDX-License-Identifier: Apache-2.0
"""Trains models on rows in memory: SFT, reward models and DPO."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Sequence

import jax
import numpy as np

from rlaif_jax.core import lora_config
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import loop
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.reward import model as reward_model
from rlaif_jax.reward import pair_scoring
from rlaif_jax.sft import loss as sft_loss

_ADAMW = optimizer_lib.OptimizerConfig(name="adamw", learning_rate=1e-5)


def fit_sft(
  examples: Sequence[records.Example],
  *,
  init: pretrained.PretrainedModel,
  optimizer: optimizer_lib.Transform | None = None,
  lora: lora_config.LoraConfig | None = None,
  directory: str = "",
  **train: Any,
) -> pretrained.PretrainedModel:
  """Trains a language model on contexts with responses.

  Args:
    examples: contexts with their responses.
    init: model that training starts from; its parameters are not changed.
    optimizer: any optax transformation; None is AdamW at 1e-5.
    lora: trains adapters, which are merged at the end; None trains all
      parameters.
    directory: directory of checkpoints and metrics, from which a second call
      resumes; "" keeps everything in memory.
    **train: fields of `loop.TrainConfig`; the default is 1 epoch in batches of
      32 rows.
  """
  rows, _ = converters.encode_examples(examples, init.tokenizer, init.sequence)
  return _fit(
    datasets.HeldRows(rows),
    sft_loss.make_loss(init.functions),
    init,
    init.params if lora else pretrained.copy_params(init.params),
    optimizer,
    lora=lora,
    directory=directory,
    train=_train_config(train, epochs=1.0),
  )


def fit_reward_model(
  labels: Sequence[records.Preference],
  *,
  init: pretrained.PretrainedModel,
  optimizer: optimizer_lib.Transform | None = None,
  lora: lora_config.LoraConfig | None = None,
  directory: str = "",
  **train: Any,
) -> pretrained.PretrainedModel:
  """Trains a reward model on soft or hard labels (paper, section 2.2.1).

  Args:
    labels: pairs with P(first is better).
    init: language model whose trunk initialises the reward model.
    optimizer: any optax transformation; None is AdamW at 1e-5.
    lora: see `fit_sft`.
    directory: see `fit_sft`.
    **train: fields of `loop.TrainConfig`; the default is 2 epochs in batches
      of 32 pairs.

  Returns:
    A scalar model: the reward is the scalar after the last token.
  """
  pairs, _ = converters.encode_preferences(
    labels, init.tokenizer, init.sequence
  )
  config = _train_config(train, epochs=2.0)
  functions = pretrained.scalar_model(init.config, init.mesh)
  params = initialization.scalar_params(
    functions,
    init,
    init.mesh,
    rng.key(config.seed, "init"),
    copy=lora is None,
  )
  model = dataclasses.replace(
    init, name="reward", kind="scalar", functions=functions
  )
  return _fit(
    datasets.HeldRows(pairs),
    reward_model.make_loss(functions),
    model,
    params,
    optimizer,
    lora=lora,
    directory=directory,
    train=config,
  )


def fit_dpo(
  labels: Sequence[records.Preference],
  *,
  init: pretrained.PretrainedModel,
  beta: float = 0.1,
  optimizer: optimizer_lib.Transform | None = None,
  lora: lora_config.LoraConfig | None = None,
  directory: str = "",
  **train: Any,
) -> pretrained.PretrainedModel:
  """Trains a policy on labels by DPO (arXiv:2305.18290).

  Args:
    labels: pairs with P(first is better), hard or soft.
    init: policy that training starts from; also the reference.
    beta: weight of the implied KL to the reference.
    optimizer: any optax transformation; None is AdamW at 1e-5.
    lora: see `fit_sft`.
    directory: see `fit_sft`.
    **train: fields of `loop.TrainConfig`; the default is 1 epoch in batches of
      32 pairs.
  """
  pairs, _ = converters.encode_preferences(
    labels, init.tokenizer, init.sequence
  )
  config = _train_config(train, epochs=1.0)
  log_probs = pair_scoring.predict_pairs(
    jax.jit(functools.partial(scoring.pair_log_probs, init.functions)),
    init.params,
    pairs,
    config.batch_size,
  )
  pairs = pairs.replace(ref_log_probs=np.stack(log_probs, axis=-1))
  return _fit(
    datasets.HeldRows(pairs),
    dpo_model.make_loss(init.functions, dpo_model.DPOConfig(beta=beta)),
    init,
    init.params if lora else pretrained.copy_params(init.params),
    optimizer,
    lora=lora,
    directory=directory,
    train=config,
  )


def _train_config(options: dict[str, Any], epochs: float) -> loop.TrainConfig:
  """Returns the config with defaults; `num_steps` replaces the epochs."""
  if "num_steps" not in options:
    options = {"epochs": epochs, **options}
  return loop.TrainConfig(**{"batch_size": 32, **options})


def _fit(
  rows: datasets.HeldRows,
  loss: protocols.LossFn,
  model: pretrained.PretrainedModel,
  params: protocols.Params,
  optimizer: optimizer_lib.Transform | None,
  *,
  lora: lora_config.LoraConfig | None,
  directory: str,
  train: loop.TrainConfig,
) -> pretrained.PretrainedModel:
  """Returns `model` with `params` trained on the rows."""
  tx = optimizer or optimizer_lib.make_optimizer(_ADAMW)

  def next_batch(state: step_lib.TrainState, step: int) -> protocols.Batch:
    del state
    index = converters.epoch_rows(
      num_rows=len(rows),
      batch_size=train.batch_size,
      seed=train.seed,
      name=model.name,
      step=step,
    )
    return rows.batch(model.mesh, index)

  learned, frozen = trainable.split(
    params, lora, model.mesh, rng.key(train.seed, "lora")
  )
  update = step_lib.make_train_step(loss, tx, combine=frozen.combine)
  state = loop.fit(
    step_lib.state_from_params(learned, tx, model.mesh),
    lambda state, batch, key: update(state, batch, key, frozen.params),
    next_batch,
    config=train,
    num_rows=len(rows),
    directory=directory,
    name=model.name,
  )
  return dataclasses.replace(model, params=frozen.merged(state.params))
