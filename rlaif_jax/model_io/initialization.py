# SPDX-License-Identifier: Apache-2.0
"""Initial parameters of reward and value models from a language model."""

from __future__ import annotations

from typing import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import protocols
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import ensemble as ensemble_lib


def scalar_params(
  functions: protocols.ScalarModel,
  start: pretrained.PretrainedModel,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> protocols.Params:
  """Returns the parameters of a scalar model on a copy of a trunk.

  Args:
    functions: the scalar model.
    start: language model whose trunk is copied.
    mesh: devices.
    key: PRNG key of the head.
    placement: sharding and dtype of the parameters.
  """
  shardings = mesh_lib.param_shardings(
    mesh, jax.eval_shape(functions.init, jax.random.key(0)), placement
  )
  make = jax.jit(lambda k: nn.unbox(functions.init(k)), out_shardings=shardings)
  trunk = trunk_of(start, shardings["decoder"])
  return {**make(key), "decoder": trunk}


def policy_params(
  policy: pretrained.PretrainedModel,
  value: protocols.ScalarModel | None,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> dict[str, protocols.Params]:
  """Returns the initial parameters of RL: a copy of the policy, and a value.

  Args:
    policy: language model that training starts from.
    value: functions of the value network; None: no entry "value".
    mesh: devices.
    key: PRNG key of the value head.
    placement: of the value network.
  """
  params = {"policy": pretrained.copy_params(policy.params)}
  if value is not None:
    params["value"] = scalar_params(value, policy, mesh, key, placement)
  return params


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
  start: pretrained.PretrainedModel, shardings: PyTree
) -> protocols.Params:
  """Returns a copy of a language model's trunk with the given shardings."""
  return jax.tree.map(
    lambda x, place: jax.device_put(jnp.copy(x), place),
    part_of(shardings, start.params),
    shardings,
  )
