# SPDX-License-Identifier: Apache-2.0
"""Prefills prompts that share prefixes, each prefix once (causal models)."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols


@flax.struct.dataclass
class SharedPrompts:
  """Prompts in G groups with a prefix each, everything left-padded.

  Prompt b is group_tokens[group_ids[b]] + suffix[b]. All of them may continue
  one more prefix, whose cache is from `prefill_prefix`.
  """

  group_tokens: Int[batches.Array, "G L"]
  group_valid: Bool[batches.Array, "G L"]
  group_ids: Int[batches.Array, " B"]
  suffix: Int[batches.Array, "B S"]
  suffix_valid: Bool[batches.Array, "B S"]  # All False if the row is unused.


def prefill_prefix(
  model: protocols.LanguageModel,
  params: protocols.Params,
  tokens: Int[Array, "1 C"],
  valid: Bool[Array, "1 C"],
) -> protocols.Cache:
  """Returns the cache of a prefix that all prompts continue."""
  return model.prefill(params, tokens, valid, 0)[1]


def prefill_shared(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  prompts: SharedPrompts,
  num_new_tokens: int,
  *,
  last_only: bool = False,
) -> tuple[Float[Array, "B columns D"], protocols.Cache]:
  """Prefills prompts that continue `prefix`, the prefix of each group once.

  Args:
    model: functions of a causal language model.
    params: model parameters.
    prefix: cache from `prefill_prefix`. It is not copied for each row.
    prompts: the prompts without the prefix. The cache of a group's prefix is
      copied for each of its prompts.
    num_new_tokens: number of tokens that the cache has room for.
    last_only: whether to return the states of the last columns only.

  Returns:
    States of the suffixes' columns, and the cache of the rows without the
    prefix.
  """
  rows, length = prompts.suffix.shape
  cache = model.cache.init_cache(prefix, *prompts.group_tokens.shape)
  _, cache = model.decode_step(
    params, prompts.group_tokens, prompts.group_valid, cache, prefix
  )
  cache = batches.take_rows(cache, prompts.group_ids)
  cache = model.cache.grow_cache(cache, length + num_new_tokens)
  columns = jnp.full((rows, 1), length - 1) if last_only else None
  return model.decode_step(
    params, prompts.suffix, prompts.suffix_valid, cache, prefix, columns
  )
