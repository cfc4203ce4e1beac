# SPDX-License-Identifier: Apache-2.0
"""Batches: the arrays that jitted functions take and return.

Every token array has a boolean `valid` of the same shape. Padding may be
anywhere: prompts are padded on the left, responses on the right. Positions are
`cumsum(valid) - 1`; no code looks for a pad id. Axes: B rows, P prompt tokens,
R response tokens, L = P + R, N responses of a prompt.
"""

from __future__ import annotations

from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray
# A pytree of arrays.
Tree = TypeVar("Tree")


@flax.struct.dataclass
class TokenBatch:
  """Prompts, each with one response, for a language-model loss.

      tokens   [ _ _ c c c | r r e _ ]   prompt left-, response right-padded
      valid    [ 0 0 1 1 1 | 1 1 1 0 ]
      weights              [ 1 1 1 0 ]   weight of each response target

  The response is the last `R = weights.shape[1]` columns and includes its end
  token `e`. Column `L - R - 1 + j` of `tokens` predicts response column j. To
  train on whole texts, R = L - 1 and the first token begins the sequence.
  """

  tokens: Int[Array, "B L"]
  valid: Bool[Array, "B L"]
  weights: Float[Array, "B R"]


@flax.struct.dataclass
class GroupBatch:
  """Prompts, each with N responses; a model reads each prompt once.

      prompt [ _ _ c c c ]   response [ r r e _ ]
                             response [ r e _ _ ]

  The responses of a prompt do not attend to each other. Prompts are padded on
  the left, so that their last column is valid.
  """

  prompt: Int[Array, "B P"]
  prompt_valid: Bool[Array, "B P"]
  response: Int[Array, "B N R"]
  response_valid: Bool[Array, "B N R"]

  def rows(self, index: int) -> TokenBatch:
    """Response `index` of every prompt as a TokenBatch [B, P + R]."""
    own, valid = self.response[:, index], self.response_valid[:, index]
    xp = np if isinstance(own, np.ndarray) else jnp
    return TokenBatch(
      tokens=xp.concatenate([self.prompt, own], axis=1),
      valid=xp.concatenate([self.prompt_valid, valid], axis=1),
      weights=valid.astype(np.float32),
    )


@flax.struct.dataclass
class PairBatch:
  """Two responses per prompt with P(first is better) in [0, 1].

  `texts` is a GroupBatch with N = 2, or a PackedBatch whose row holds K pairs
  (responses 2 k and 2 k + 1 belong to pair k). Labels, weights and reference
  log-probs have the shape [B], or [B, K] of packed rows.
  """

  texts: GroupBatch | PackedBatch
  label: Float[Array, "*pairs"]
  weight: Float[Array, "*pairs"]  # 0 if unused
  # Log-probs of both whole responses under a frozen reference, for the losses
  # that read them.
  ref_log_probs: Float[Array, "*pairs 2"] | None = None
  # KTO's reference point, the same for all pairs of an update.
  reference_point: Float[Array, "*pairs"] | None = None

  @property
  def is_packed(self) -> bool:
    return isinstance(self.texts, PackedBatch)

  @property
  def first(self) -> TokenBatch:
    """The first responses with their prompts; unpacked pairs only."""
    return self.texts.rows(0)

  @property
  def second(self) -> TokenBatch:
    """The second responses with their prompts; unpacked pairs only."""
    return self.texts.rows(1)


@flax.struct.dataclass
class PackedBatch:
  """Rows of several segments: a prompt with its continuations, its responses.

      tokens           [ c c c r e r r e d d r e r e _ ]
      segment_ids      [ 1 1 1 1 1 1 1 1 2 2 2 2 2 2 0 ]   0 is padding
      continuation_ids [ 0 0 0 1 1 2 2 2 0 0 1 1 2 2 0 ]   0 is the prompt

  A continuation attends to its prompt and to itself. For a loss, `columns` are
  those that predict the T targets of a row, and `last` those of its M
  responses' last tokens. For scoring what comes after M prompts, `columns` are
  those of the prompts' last tokens, and the fields below it are None.
  """

  tokens: Int[Array, "B L"]
  segment_ids: Int[Array, "B L"]
  continuation_ids: Int[Array, "B L"]
  columns: Int[Array, "B T"]  # 0 if unused
  targets: Int[Array, "B T"] | None = None
  response_ids: Int[Array, "B T"] | None = None  # In [0, M), -1 if unused
  last: Int[Array, "B M"] | None = None  # 0 if unused


@flax.struct.dataclass
class PromptBatch:
  """Prompts for a rollout.

  `prompt` is the policy's prompt, left-padded. `context` is the document in the
  same vocabulary, left-padded, for a labeler that puts its own prompt around
  it. `row` is the example's number, which seeds its samples, so that they do
  not depend on the batch.
  """

  prompt: Int[Array, "B P"]
  prompt_valid: Bool[Array, "B P"]
  context: Int[Array, "B C"]
  context_valid: Bool[Array, "B C"]
  row: Int[Array, " B"]


def repeat_rows(tree: Tree, times: int) -> Tree:
  """Returns arrays with each row repeated `times`; scalars are kept."""
  if times == 1:
    return tree
  return jax.tree.map(
    lambda x: jnp.repeat(x, times, axis=0) if x.ndim else x, tree
  )


def take_rows(tree: Tree, rows: Int[Array, " N"]) -> Tree:
  """Returns arrays with the given rows only; scalars are kept."""
  return jax.tree.map(lambda x: x[rows] if x.ndim else x, tree)
