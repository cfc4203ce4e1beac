# SPDX-License-Identifier: Apache-2.0
"""T5's relative position bias (arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtyping import Array, Float, Int

from rlaif_jax.models import layouts


def buckets(
  distance: Int[Array, "*shape"],
  *,
  count: int,
  max_distance: int,
  both_ways: bool,
) -> Int[Array, "*shape"]:
  """Returns the bucket of a relative position (arXiv:1910.10683, section 2.1).

  Small distances have one bucket each, larger ones share logarithmic buckets
  up to `max_distance`, and all beyond it share the last one.

  Args:
    distance: key position - query position.
    count: number of buckets.
    max_distance: smallest distance of the last bucket.
    both_ways: whether the second half of the buckets is for later keys.
      Otherwise later keys have distance 0.
  """
  half = count // 2 if both_ways else count
  exact = half // 2
  far = np.maximum(np.arange(max_distance + 1), exact) / exact
  # 1e-6, so that exact powers are not rounded into the bucket before.
  steps = np.log(far) / math.log(max_distance / exact) * (half - exact) + 1e-6
  table = np.minimum(exact + steps.astype(np.int32), half - 1)
  table[:exact] = np.arange(exact)
  away = jnp.abs(distance) if both_ways else jnp.maximum(-distance, 0)
  result = jnp.asarray(table)[jnp.minimum(away, max_distance)]
  return result + jnp.where(distance > 0, half, 0) if both_ways else result


@flax.struct.dataclass
class Biases:
  """One bias per head and bucket, and the buckets of positions.

  `whole` has the biases of all queries and keys where they are made once for
  all layers, as plain attention does.
  """

  table: Float[Array, "H buckets"]
  whole: Float[Array, "B H L S"] | None
  max_distance: int = flax.struct.field(pytree_node=False)
  both_ways: bool = flax.struct.field(pytree_node=False)

  def at(
    self, positions: Int[Array, "B L"], key_positions: Int[Array, "B S"]
  ) -> Float[Array, "B H L S"]:
    """Returns the biases of query and key positions."""
    if self.whole is not None:
      return self.whole
    index = buckets(
      key_positions[:, None, :] - positions[:, :, None],
      count=self.table.shape[1],
      max_distance=self.max_distance,
      both_ways=self.both_ways,
    )
    # A product, since the gradient of a lookup adds one number at a time.
    rows = jax.nn.one_hot(index, self.table.shape[1], dtype=jnp.float32)
    return jnp.einsum(
      "blsk,hk->bhls", rows, self.table, precision=jax.lax.Precision.HIGHEST
    )


class RelativeBias(nn.Module):
  """The biases of a stack, which all of its layers share."""

  num_heads: int
  num_buckets: int
  max_distance: int
  both_ways: bool

  @nn.compact
  def __call__(self, layout: layouts.Layout) -> Biases:
    """Returns the biases of a layout."""
    table = self.param(
      "rel_embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0 / math.sqrt(self.num_heads)),
        ("heads", "relpos_buckets"),
      ),
      (self.num_heads, self.num_buckets),
      jnp.float32,
    ).astype(jnp.float32)
    biases = Biases(table, None, self.max_distance, self.both_ways)
    if layout.mask is None:
      return biases
    whole = biases.at(layout.positions, layout.key_positions)
    return biases.replace(whole=whole)
