# SPDX-License-Identifier: Apache-2.0
"""Reward ensembles: independent models, or heads or adapters on one trunk.

    independent  k models                                k (M + L) parameters
    heads        one trunk, k heads                      M + k L
    lora         one frozen trunk, k adapters and heads  M + k (A + L)

(arXiv:2401.16635, section 3; M trunk, L head, A adapter.) All three are one
member function under vmap, with the trunk either mapped over or shared.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Callable, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import scoring
from rlaif_jax.models import lora as lora_lib
from rlaif_jax.ops import ensembles
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference
from rlaif_jax.reward import model as reward_model

Kind = Literal["independent", "heads", "lora"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleConfig(validation.Validated):
  """Members of an ensemble, what they share, and how they become diverse.

  `head_scale` is the standard deviation of a member's initial reward; heads on
  one trunk would stay equal without it. `bootstrap` gives each member its own
  resample of the pairs. `loss_on` "members" trains each member by its own
  margin; "mean" trains their mean (UP-RLHF, eq. 12), which constrains no single
  member. `first_phase` is the fraction of pairs on which a lora ensemble first
  trains trunk and heads together; 0 skips this phase. `diversity` is UP-RLHF's
  weight of the nuclear ratio of the stacked adapters.
  """

  kind: Kind = "independent"
  members: validation.PositiveInt = 1
  head_scale: validation.NonNegativeFloat = 0.1
  bootstrap: bool = False
  loss_on: Literal["members", "mean"] = "members"
  first_phase: Annotated[float, validation.Bounds(ge=0, lt=1)] = 0.5
  diversity: validation.NonNegativeFloat = 0.0
  lora: lora_lib.LoraConfig = lora_lib.LoraConfig()

  def __post_init__(self):
    super().__post_init__()
    if self.diversity and self.kind != "lora":
      raise ValueError(
        f"EnsembleConfig.diversity is {self.diversity}, and {self.kind!r} has "
        "no adapters; use kind 'lora'"
      )


@flax.struct.dataclass
class MemberPairs:
  """Pairs with the weight of each pair for each member.

  `weights` is [B, k]; None gives all pairs weight 1, and is required for packed
  pairs.
  """

  pairs: batches.PairBatch
  weights: Float[batches.Array, "B k"] | None


@flax.struct.dataclass
class Unit:
  """Parameters of an ensemble, and mean and deviation [k] of its rewards."""

  params: protocols.Params
  shift: Float[Array, " k"]
  scale: Float[Array, " k"]


def init(
  model: protocols.ScalarModel,
  config: EnsembleConfig,
  key: jax.Array,
  trunk: protocols.Params = None,
) -> protocols.Params:
  """Returns parameters {"shared", "members"}; members have a leading axis k.

  Args:
    model: one member.
    config: the ensemble.
    key: PRNG key of the initialisation.
    trunk: unboxed parameters of a shared trunk; None initialises it.
  """
  keys = jax.random.split(key, config.members)

  def member(member_key):
    params = nn.unbox(model.init(member_key))
    head = params["head"]["kernel"]
    scale = config.head_scale / head.shape[0] ** 0.5
    kernel = scale * jax.random.normal(
      jax.random.fold_in(member_key, 1), head.shape, head.dtype
    )
    return {**params, "head": {**params["head"], "kernel": kernel}}

  members = jax.vmap(member)(keys)
  if config.kind == "independent":
    return {"shared": {}, "members": members}
  if trunk is None:
    trunk = nn.unbox(model.init(key))["decoder"]
  shared = {"decoder": trunk}
  heads = {"head": members["head"]}
  if config.kind == "lora":
    heads["adapters"] = jax.vmap(
      lambda k: lora_lib.init(jax.random.fold_in(k, 2), shared, config.lora)
    )(keys)
  return {"shared": shared, "members": heads}


def abstract_params(
  functions: protocols.ScalarModel,
  ensemble: EnsembleConfig,
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> protocols.Params:
  """Returns shapes and shardings of an ensemble with a shared trunk.

  The trunk is sharded like that of one model; members are replicated.

  Raises:
    ValueError: int8 or nf4.
  """
  if placement.is_quantized:
    raise ValueError(
      f"Placement.dtype is {placement.dtype!r}, and an ensemble is not "
      "quantized; use bfloat16"
    )
  whole = mesh_lib.abstract_params(functions.init, mesh, placement)
  shapes = jax.eval_shape(
    lambda key: init(functions, ensemble, key),
    jax.random.key(0),
  )
  members = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      jnp.dtype(placement.dtype),
      sharding=mesh_lib.replicated(mesh),
    ),
    shapes["members"],
  )
  return {"shared": {"decoder": whole["decoder"]}, "members": members}


def member_rewards(
  model: protocols.ScalarModel,
  config: EnsembleConfig,
  params: protocols.Params,
  batch: batches.TokenBatch | batches.GroupBatch,
) -> Float[Array, "k B"] | Float[Array, "k B N"]:
  """Returns each member's rewards, [k, B] of rows or [k, B, N] of groups.

  A shared trunk is computed once. Adapters change each layer, so k of them cost
  k forward passes and save memory only.
  """

  def one(whole):
    if isinstance(batch, batches.GroupBatch):
      return model.last(whole, batch)
    return model.last(whole, batch)

  return of_members(one, config, params)


def of_members(
  read: Callable[[protocols.Params], batches.Tree],
  config: EnsembleConfig,
  params: protocols.Params,
) -> batches.Tree:
  """Applies `read` to the parameters of each member: arrays [k, ...]."""

  def one(member):
    whole = {**params["shared"], **member}
    adapters = whole.pop("adapters", None)
    if adapters is not None:
      whole = lora_lib.merge(whole, adapters, config.lora)
    return read(whole)

  return jax.vmap(one)(params["members"])


def make_loss(
  model: protocols.ScalarModel, config: EnsembleConfig
) -> protocols.LossFn:
  """Returns the LossFn over MemberPairs: the sum of the members' losses."""

  def loss(params: protocols.Params, batch: MemberPairs, key: jax.Array):
    del key
    pairs = batch.pairs

    def margin(whole):
      first, second = reward_model.pair_rewards(model, whole, pairs)
      return first - second

    margins = of_members(margin, config, params)  # [k, ...]
    seen = jnp.ones_like(margins)
    if batch.weights is not None:
      seen = batch.weights.T
    rows = jnp.mean(seen, axis=0) * pairs.weight
    if config.loss_on == "mean":
      terms = preference.pair_logistic(jnp.mean(margins, axis=0), pairs.label)
      total = masked.weighted_sum(terms, rows)
    else:
      terms = jax.vmap(preference.pair_logistic, (0, None))(
        margins, pairs.label
      )
      weights = seen * pairs.weight[None]
      total = masked.WeightedSum(
        masked.weighted_sum(terms, weights).total, jnp.sum(rows)
      )
    mean = jnp.mean(margins, axis=0)
    metrics = {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(mean, pairs.label), pairs.weight
      ),
      "disagreement": masked.weighted_sum(
        jnp.std(margins, axis=0), pairs.weight
      ),
    }
    if "adapters" in params["members"]:
      ratio = diversity_ratio(params["members"]["adapters"])
      metrics["diversity"] = masked.WeightedSum(ratio, jnp.ones(()))
      if config.diversity:
        total = total.replace(
          total=total.total - config.diversity * ratio * total.weight
        )
    return total, metrics

  return loss


def diversity_ratio(adapters: lora_lib.Adapters) -> Float[Array, ""]:
  """Returns the mean nuclear ratio of the members' stacked `a` matrices."""
  ratios = []
  for adapter in adapters.values():
    a = adapter["a"]  # [k, in, rank]
    rows = jnp.swapaxes(a, 1, 2).reshape(-1, a.shape[1])
    ratios.append(ensembles.nuclear_ratio(rows))
  return jnp.mean(jnp.stack(ratios))


def bootstrap_weights(
  config: EnsembleConfig, generator: np.random.Generator, rows: int
) -> Float[np.ndarray, "rows k"]:
  """Returns the count of each pair in each member's resample: [rows, k]."""
  if not config.bootstrap:
    return np.ones((rows, config.members), np.float32)
  counts = generator.multinomial(rows, [1.0 / rows] * rows, config.members)
  return counts.T.astype(np.float32)


def ensemble_scorer(
  model: protocols.ScalarModel,
  config: EnsembleConfig,
  *,
  aggregate: str,
  coefficient: float = 0.0,
) -> protocols.Scorer:
  """Returns a Scorer with `Unit` parameters: standardises, then aggregates.

  UP-RLHF's penalty, the deviation minus its running mean, equals `lcb`: the
  running mean is constant within a step, and a baseline cancels it.
  """

  def score(
    params: Unit,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    group = scoring.join_groups(prompts, response, mask)
    raw = member_rewards(model, config, params.params, group)
    return ensembles.aggregate(
      ensembles.standardize(raw, params.shift, params.scale),
      aggregate,
      coefficient,
    )

  return score
