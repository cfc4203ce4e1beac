# SPDX-License-Identifier: Apache-2.0
"""Which parameters of a model are trained: all, or adapters and heads.

learned, frozen = trainable.split(params, lora, mesh, key)
state = step.state_from_params(learned, optimizer, mesh)
update = step.make_train_step(loss, optimizer, combine=frozen.combine)
state, metrics = update(state, batch, key, frozen.params)
finished = frozen.merged(state.params)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Mapping

import jax
import jax.numpy as jnp

from rlaif_jax.core import lora_config
from rlaif_jax.core import protocols
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import step as step_lib
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import sources
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import lora as lora_lib


@dataclasses.dataclass(frozen=True)
class Frozen:
  """The parameters that are not trained, and how the others join them.

  Attributes:
    params: the parameters; None if all are trained. A jitted function takes
      them as an argument, so that they are not constants of it.
    combine: (learned, frozen) -> parameters that the model's functions read,
      the same arrays; None if all are trained.
    merge: (learned, frozen) -> parameters of a model without adapters.
    lora: targets and size of the adapters.
  """

  params: protocols.Params = None
  combine: step_lib.Combine | None = None
  merge: step_lib.Combine | None = None
  lora: lora_config.LoraConfig | None = None

  def attached(self, learned: protocols.Params) -> protocols.Params:
    """Returns the parameters that the model's functions read."""
    return self.combine(learned, self.params) if self.combine else learned

  def merged(self, learned: protocols.Params) -> protocols.Params:
    """Returns the parameters of a model without adapters."""
    if self.merge is None:
      return learned
    return jax.jit(self.merge)(learned, self.params)


def combine(lora: lora_config.LoraConfig | None) -> step_lib.Combine | None:
  """Returns `Frozen.combine` of a model with adapters; None: all is trained."""
  return lora and functools.partial(_combine, lora_lib.attach, lora)


def split(
  params: protocols.Params,
  lora: lora_config.LoraConfig | None,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
) -> tuple[protocols.Params, Frozen]:
  """Splits the parameters of a language or scalar model; copies none.

  Args:
    params: unboxed parameters.
    lora: adapters; None trains all parameters.
    mesh: devices; adapters are replicated.
    key: PRNG key of the adapters.

  Returns:
    The parameters to train, which are all, or {"adapters"} with the "head" of
    a scalar model; and the rest.

  Raises:
    ValueError: the adapters do not fit the model, or all parameters are trained
      and are not float32.
  """
  if lora is None:
    _check_precision(params)
    return params, Frozen()
  frozen = {name: own for name, own in params.items() if name != "head"}
  learned = {"adapters": lora_lib.init(key, frozen, lora)}
  if "head" in params:
    learned["head"] = jax.tree.map(
      lambda leaf: leaf.astype(jnp.float32), params["head"]
    )

  learned = jax.device_put(learned, mesh_lib.replicated(mesh))
  merge = functools.partial(_combine, lora_lib.merge, lora)
  return learned, Frozen(frozen, combine(lora), merge, lora)


def _combine(how, lora, learned, frozen):
  heads = {name: own for name, own in learned.items() if name != "adapters"}
  return {**how(frozen, learned["adapters"], lora), **heads}


def join(parts: Mapping[str, Frozen]) -> Frozen:
  """Returns several models as one, with their names as the top-level keys."""
  if not any(part.combine for part in parts.values()):
    return Frozen()

  def each(how):
    functions = {name: getattr(part, how) for name, part in parts.items()}

    def combine(learned, frozen):
      return {
        name: functions[name](own, frozen[name]) if functions[name] else own
        for name, own in learned.items()
      }

    return combine

  params = {name: part.params for name, part in parts.items()}
  return Frozen(params, each("combine"), each("merge"))


def save(
  output_dir: str,
  learned: protocols.Params,
  frozen: Frozen,
  start: pretrained.PretrainedModel,
  *,
  name: str,
) -> protocols.Params:
  """Writes a finished language model, and its adapters in PEFT's layout.

  Args:
    output_dir: receives `model`, and `adapter` if adapters were trained.
    learned: trained parameters.
    frozen: the others.
    start: the model that training started from.
    name: name of the finished model.

  Returns:
    The parameters of the finished model.
  """
  if frozen.lora is not None and processes.is_writer():
    peft_files.save(
      f"{output_dir}/adapter",
      learned["adapters"],
      frozen.lora,
      sources.hf_rules(start.config),
      start.directory,
    )
  params = frozen.merged(learned)
  pretrained.save_like(
    f"{output_dir}/model", params, start, name=name, kind="language"
  )
  return params


def share_equal(
  params: protocols.Params, base: protocols.Params
) -> protocols.Params:
  """Returns parameters with the arrays of `base` in place of equal ones.

  So a labeler that is the policy's own checkpoint, or a reward model whose
  adapters were merged into the same trunk, takes memory only for what differs.

  Args:
    params: of a language model, or of a scalar model on a "decoder".
    base: of a language model; its arrays must not be donated.
  """
  leaves = dict(jax.tree_util.tree_leaves_with_path(base))
  is_equal = jax.jit(lambda a, b: jnp.all(a == b))

  def share(path, own):
    other = leaves.get(path, leaves.get(path[1:]))
    if (
      other is not None
      and (own.shape, own.dtype) == (other.shape, other.dtype)
      and own.sharding.is_equivalent_to(other.sharding, own.ndim)
      and is_equal(own, other)
    ):
      return other
    return own

  return jax.tree_util.tree_map_with_path(share, params)


def _check_precision(params: protocols.Params) -> None:
  """Raises ValueError if trained parameters are not float32."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if leaf.dtype != jnp.float32:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      raise ValueError(
        f"parameter {name} is {leaf.dtype}; trained parameters must be "
        "float32: set PlacementConfig.policy and value to that dtype "
        "(DecoderConfig.dtype sets the dtype of computations), or set "
        "OptimizerConfig.lora to train adapters only"
      )
