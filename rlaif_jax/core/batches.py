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


def grouped(text: TokenBatch, size: int) -> GroupBatch:
  """Returns B N rows, N consecutive ones with the same prompt, as groups."""
  length = text.weights.shape[1]

  def prompts(x):
    return x[::size, : x.shape[1] - length]

  def responses(x):
    return x[:, x.shape[1] - length :].reshape(-1, size, length)

  return GroupBatch(
    prompt=prompts(text.tokens),
    prompt_valid=prompts(text.valid),
    response=responses(text.tokens),
    response_valid=responses(text.valid),
  )


@flax.struct.dataclass
class PairBatch:
  """Two candidates per context; label is P(first is better) in [0, 1].

  `first` and `second` have the same prompts, which are read once.
  """

  first: TokenBatch
  second: TokenBatch
  label: Array  # [B] float32
  weight: Array  # [B] float32; 0 for rows that only fill the batch

  def grouped(self) -> GroupBatch:
    """Contexts with both candidates, G = 2."""
    both = jax.tree.map(
      lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, a.shape[1]),
      self.first,
      self.second,
    )
    return grouped(both, 2)


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
class PackedPairs:
  """K pairs a row: responses 2 k and 2 k + 1 are candidates of pair k."""

  texts: PackedBatch
  label: Array  # [B, K] float32
  weight: Array  # [B, K] float32; 0 for pairs that are not there


@flax.struct.dataclass
class ReferencedPairs:
  """Pairs with what a frozen reference says of them: data, made once.

  Log-probs of the whole candidates, each in the shape of the label.
  """

  pairs: PairBatch | PackedPairs
  ref_first: Array  # float32
  ref_second: Array  # float32


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


@flax.struct.dataclass
class Rollout:
  """Sampled responses with all that an update needs, computed once.

  `mask` is 1 up to and with the first end token. Log-probs are under the
  sampling distribution, softmax(logits / temperature), for both the policy
  and the reference. `values[t]` is the value of the state before token t.
  """

  prompts: PromptBatch
  response: Array  # [B, R] int32
  mask: Array  # [B, R] float32
  log_probs: Array  # [B, R] float32
  ref_log_probs: Array  # [B, R] float32
  values: Array  # [B, R] float32
  score: Array  # [B] float32
