# SPDX-License-Identifier: Apache-2.0
"""Initial parameters of reward and value models from a language model."""

from __future__ import annotations

from typing import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import lora_config
from rlaif_jax.core import protocols
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.models import architectures
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms


def scalar_params(
  functions: protocols.ScalarModel,
  start: pretrained.PretrainedModel,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
  placement: compute_lib.Placement = compute_lib.PLAIN,
  *,
  copy: bool = True,
) -> protocols.Params:
  """Returns the parameters of a scalar model on the trunk of a language model.

  Args:
    functions: the scalar model.
    start: the language model.
    mesh: devices.
    key: PRNG key of the head.
    placement: sharding and dtype of the parameters.
    copy: copies the trunk, so that it can be trained.
  """
  params = mesh_lib.init_params(functions.init, key, mesh, placement)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, params["decoder"])
  return {**params, "decoder": trunk_of(start, shardings, copy=copy)}


def value_model(
  rl: algorithms.RLConfig,
  config: architectures.Config,
  mesh: jax.sharding.Mesh,
  compute: compute_lib.ComputeConfig,
) -> protocols.ScalarModel | None:
  """Returns the value network's functions; None if the algorithm has none."""
  if not rl.row.needs_value:
    return None
  return pretrained.scalar_model(config, mesh, compute)


def policy_params(
  policy: pretrained.PretrainedModel,
  value: protocols.ScalarModel | None,
  mesh: jax.sharding.Mesh,
  *,
  key: jax.Array,
  placement: compute_lib.Placement = compute_lib.PLAIN,
  lora: Mapping[str, lora_config.LoraConfig | None],
) -> tuple[dict[str, protocols.Params], dict[str, trainable.Frozen]]:
  """Returns the initial parameters of RL: those of a policy, and of a value.

  A model of which all parameters are trained is a copy. Models with adapters
  share the parameters of `policy`.

  Args:
    policy: language model that training starts from.
    value: functions of the value network; None: no entry "value".
    mesh: devices.
    key: PRNG key of the value head and of adapters.
    placement: of the value network.
    lora: adapters of "policy" and "value"; None trains all parameters.

  Returns:
    The parameters to train and the frozen ones, by "policy" and "value".

  Raises:
    ValueError: see `trainable.split`.
  """
  params = {"policy": policy.params}
  if lora["policy"] is None:
    params["policy"] = pretrained.copy_params(policy.params)
  if value is not None:
    params["value"] = scalar_params(
      value, policy, mesh, key, placement, copy=lora["value"] is None
    )
  parts = {
    name: trainable.split(
      own, lora[name], mesh, jax.random.fold_in(key, number)
    )
    for number, (name, own) in enumerate(params.items())
  }
  learned = {name: part for name, (part, _) in parts.items()}
  return learned, {name: rest for name, (_, rest) in parts.items()}


def ensemble_params(
  functions: protocols.ScalarModel,
  ensemble: ensemble_lib.EnsembleConfig,
  start: pretrained.PretrainedModel,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> protocols.Params:
  """Returns initial members on a copy of the trunk of `start`.

  Args:
    functions: the scalar model of one member.
    ensemble: number and kind of members.
    start: language model whose trunk is copied.
    mesh: devices.
    key: PRNG key of the members.
    placement: sharding and dtype of the parameters.
  """
  shapes = ensemble_lib.abstract_params(functions, ensemble, mesh, placement)
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  trunk = trunk_of(start, shardings["shared"]["decoder"])
  make = jax.jit(
    lambda k, trunk: ensemble_lib.init(functions, ensemble, k, trunk)[
      "members"
    ],
    out_shardings=shardings["members"],
  )
  return {"shared": {"decoder": trunk}, "members": make(key, trunk)}


def part_of(wanted: PyTree, tree: PyTree) -> PyTree:
  """Returns the entries of `tree` that `wanted` has, such as a trunk."""
  if not isinstance(wanted, Mapping):
    return tree
  return {name: part_of(wanted[name], tree[name]) for name in wanted}


def trunk_of(
  start: pretrained.PretrainedModel, shardings: PyTree, *, copy: bool = True
) -> protocols.Params:
  """Returns a language model's trunk, or a copy, with the given shardings."""
  return jax.tree.map(
    lambda x, place: jax.device_put(jnp.copy(x) if copy else x, place),
    part_of(shardings, start.params),
    shardings,
  )
