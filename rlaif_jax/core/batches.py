# SPDX-License-Identifier: Apache-2.0
"""Batches: the arrays that jitted functions take and return.

Every token array has a boolean `valid` of the same shape. Padding may be
anywhere: prompts are padded on the left, responses on the right. Positions are
`cumsum(valid) - 1`; no code looks for a pad id. Axes: B rows, P prompt tokens,
R response tokens, L = P + R, N responses of a prompt.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


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

  tokens: Array  # [B, L] int32
  valid: Array  # [B, L] bool
  weights: Array  # [B, R] float32


@flax.struct.dataclass
class GroupBatch:
  """Prompts, each with N responses; a model reads each prompt once.

      prompt [ _ _ c c c ]   response [ r r e _ ]
                             response [ r e _ _ ]

  The responses of a prompt do not attend to each other. Prompts are padded on
  the left, so that their last column is valid.
  """

  prompt: Array  # [B, P] int32
  prompt_valid: Array  # [B, P] bool
  response: Array  # [B, N, R] int32
  response_valid: Array  # [B, N, R] bool

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
  label: Array  # [B] or [B, K] float32
  weight: Array  # likewise; 0 for pairs that only fill the batch
  # [..., 2] float32 log-probs of both whole responses under a frozen
  # reference, for the losses that read them.
  ref_log_probs: Array | None = None

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

  tokens: Array  # [B, L] int32
  segment_ids: Array  # [B, L] int32
  continuation_ids: Array  # [B, L] int32
  columns: Array  # [B, T] int32; 0 if unused
  targets: Array | None = None  # [B, T] int32
  response_ids: Array | None = None  # [B, T] int32 in [0, M), -1 if unused
  last: Array | None = None  # [B, M] int32; 0 if unused


@flax.struct.dataclass
class PromptBatch:
  """Prompts for a rollout.

  `prompt` is what the policy reads (left-padded); `context` is the bare
  document in the same vocabulary, for a labeler that builds its own prompt
  around it; `row` names the example and seeds its samples, so that a sample
  does not depend on its place in the batch.
  """

  prompt: Array  # [B, P] int32
  prompt_valid: Array  # [B, P] bool
  context: Array  # [B, C] int32, left-padded
  context_valid: Array  # [B, C] bool
  row: Array  # [B] int32


def repeat_rows(tree: Any, times: int) -> Any:
  """Returns arrays with each row repeated `times`; scalars are kept."""
  if times == 1:
    return tree
  return jax.tree.map(
    lambda x: jnp.repeat(x, times, axis=0) if x.ndim else x, tree
  )


def take_rows(tree: Any, rows: jax.Array) -> Any:
  """Returns arrays with the given rows [N] only; scalars are kept."""
  return jax.tree.map(lambda x: x[rows] if x.ndim else x, tree)
