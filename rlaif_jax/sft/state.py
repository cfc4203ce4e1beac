# SPDX-License-Identifier: Apache-2.0
"""The parameters that SFT trains: a new model, a given one, or its adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.models import lora as lora_lib

if TYPE_CHECKING:
  import optax


class Start(NamedTuple):
  """The state at step 0; `frozen` and `combine` are None without adapters.

  Attributes:
    state: trained parameters with their optimizer state.
    frozen: parameters that are not trained.
    combine: (trained, frozen) -> parameters of the model.
  """

  state: step_lib.TrainState
  frozen: protocols.Params
  combine: (
    Callable[[protocols.Params, protocols.Params], protocols.Params] | None
  )

  def merged(self, trained: protocols.Params) -> protocols.Params:
    """Returns the parameters of the model."""
    if self.combine is None:
      return trained
    return jax.jit(self.combine)(trained, self.frozen)


def start(
  functions: protocols.LanguageModel,
  optimizer: optax.GradientTransformation,
  params: protocols.Params,
  lora: lora_lib.LoraConfig | None,
  *,
  seed: int,
  devices: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> Start:
  """Returns the state at step 0.

  Args:
    functions: the model.
    optimizer: any optax transformation.
    params: parameters to start from, which the state then owns; None
      initialises new ones.
    lora: trains adapters of `params` and freezes `params`.
    seed: seed of new parameters.
    devices: mesh.
    placement: sharding of new parameters.
  """
  if params is None:
    key = rng.key(seed, "init")
    state = step_lib.init_state(
      functions.init, optimizer, key, devices, placement
    )
    return Start(state, None, None)
  if lora is None:
    state = step_lib.state_from_params(params, optimizer, devices)
    return Start(state, None, None)
  adapters = lora_lib.init(rng.key(seed, "lora"), params, lora)
  adapters = jax.device_put(adapters, mesh_lib.replicated(devices))

  def combine(trained, frozen):
    return lora_lib.apply(frozen, trained, lora)

  state = step_lib.state_from_params(adapters, optimizer, devices)
  return Start(state, params, combine)
