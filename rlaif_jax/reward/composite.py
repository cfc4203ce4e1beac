# SPDX-License-Identifier: Apache-2.0
"""A reward of several named parts, which are added on the device."""

from __future__ import annotations

import collections
import dataclasses
from typing import Literal, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols

Standardize = Literal["none", "batch", "group"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredPart:
  """One part: its Scorer, and how its values become a share of the reward.

  Attributes:
    name: name in metrics.
    scorer: reward [B, N]; NaN is a missing value.
    weight: factor of the part in the sum; 0 only reports it.
    shift: subtracted from the values,
    scale: which are then divided by it.
    standardize: then to mean 0 and deviation 1 over the "batch" or a prompt's
      "group" of samples; equal values become 0.
    clip: then to at most this size; 0 is off.
    excludes: whether a missing value is left out of the sum, as 0 after
      standardisation. Otherwise it makes the reward NaN, which stops training.
  """

  name: str
  scorer: protocols.Scorer
  weight: float = 1.0
  shift: float = 0.0
  scale: float = 1.0
  standardize: Standardize = "none"
  clip: float = 0.0
  excludes: bool = False

  def share(
    self, values: Float[Array, "B N"], present: Bool[Array, "B N"]
  ) -> Float[Array, "B N"]:
    """Returns the part's share of the reward from its raw values."""
    values = (values - self.shift) / self.scale
    if self.standardize != "none":
      axis = None if self.standardize == "batch" else 1
      values = _standardized(values, present, axis)
    if self.clip:
      values = jnp.clip(values, -self.clip, self.clip)
    return self.weight * jnp.where(present, values, 0.0)


def _standardized(values, present, axis: int | None) -> jax.Array:
  """Returns (value - mean) / deviation over the present values."""
  count = jnp.maximum(jnp.sum(present, axis=axis, keepdims=True), 1)

  def mean(x):
    total = jnp.sum(jnp.where(present, x, 0.0), axis=axis, keepdims=True)
    return total / count

  gap = values - mean(values)
  deviation = jnp.sqrt(mean(gap**2))
  # Rounding of equal values is no spread.
  tiny = 1e-6 * (1.0 + jnp.abs(mean(values)))
  return jnp.where(deviation <= tiny, gap * 0.0, gap / (deviation + 1e-9))


def check_names(names: Sequence[str]) -> None:
  """Checks that parts have different names.

  Raises:
    ValueError: if two are the same, one is empty, or there are none.
  """
  if not names:
    raise ValueError(
      "rewards has no parts; give at least one, such as RewardPart(name="
      "'quality', ...)"
    )
  repeated = [n for n, count in collections.Counter(names).items() if count > 1]
  if repeated or not all(names):
    raise ValueError(
      f"rewards have the names {tuple(names)}; each part needs a name of its "
      "own, by which metrics report it"
    )


def composite_scorer(parts: Sequence[ScoredPart]) -> protocols.Scorer:
  """Returns the Scorer of the parts' sum; its params are theirs by name.

  It returns `protocols.Scores`. A part that is jitted stays on the device.

  Raises:
    ValueError: if two parts have one name.
  """
  check_names([part.name for part in parts])

  @jax.jit
  def add(raw: Mapping[str, jax.Array]) -> protocols.Scores:
    present = {
      part.name: ~jnp.isnan(raw[part.name])
      if part.excludes
      else jnp.ones(raw[part.name].shape, bool)
      for part in parts
    }
    shares = [part.share(raw[part.name], present[part.name]) for part in parts]
    return protocols.Scores(total=sum(shares), parts=raw, present=present)

  def score(
    params: Mapping[str, protocols.Params],
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> protocols.Scores:
    return add(
      {
        part.name: _total(
          part.scorer(params[part.name], prompts, response, mask)
        )
        for part in parts
      }
    )

  return score


def _total(found: jax.Array | protocols.Scores) -> jax.Array:
  """Returns the rewards of any Scorer in float32."""
  total = found.total if isinstance(found, protocols.Scores) else found
  return jnp.asarray(total, jnp.float32)
