# SPDX-License-Identifier: Apache-2.0
"""Device records: what a jitted step takes and returns.

One convention for padding everywhere: a token array comes with a boolean
`valid` of the same shape, padding may stand anywhere (prompts are padded on
the left, responses on the right, segments may have holes), positions are
`cumsum(valid) - 1`, and no code ever looks for a pad id. Axes: B batch,
P prompt tokens, R response tokens, L = P + R, N candidates (`SharedBatch`
names its own).
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class TokenBatch:
  """Contexts with their responses, ready for a language-model loss.

      tokens   [ _ _ c c c | r r e _ ]   prompt left-, response right-padded
      valid    [ 0 0 1 1 1 | 1 1 1 0 ]
      weights              [ 1 1 1 0 ]   weight of each response target

  The response is the last `R = weights.shape[1]` columns; column j of it is
  predicted from column `L - R - 1 + j` of `tokens`. `e` is the end token,
  which is part of the response. For language modelling of whole texts
  R = L - 1 and the first token is the beginning-of-sequence.
  """

  tokens: Array  # [B, L] int32
  valid: Array  # [B, L] bool
  weights: Array  # [B, R] float32


@flax.struct.dataclass
class GroupBatch:
  """Prompts with N responses each; a model reads each prompt once.

      prompt [ _ _ c c c ]   response [ r r e _ ]
                             response [ r e _ _ ]

  Each response attends to its prompt and to itself. Prompts are left-padded,
  so their last column is a real token.
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
  """Several prompts in a row, each with all of its responses.

      tokens   [ c c c r e r r e d d r e r e _ ]
      document [ 1 1 1 1 1 1 1 1 2 2 2 2 2 2 0 ]   0 is padding
      branch   [ 0 0 0 1 1 2 2 2 0 0 1 1 2 2 0 ]   0 is a prompt

  Each response goes on from its prompt as if it were alone with it. What is
  read out are T targets a row, the tokens of its M responses one after the
  other, and the responses' last columns.
  """

  tokens: Array  # [B, L] int32
  document: Array  # [B, L] int32
  branch: Array  # [B, L] int32
  source: Array  # [B, T] int32, the column that predicts the target
  target: Array  # [B, T] int32
  owner: Array  # [B, T] int32, the target's response, from 0; -1 only fills
  last: Array  # [B, M] int32; any column of responses that are not there


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
class SharedBatch:
  """Rows that begin alike, each beginning once, for a causal model.

  Row b is prefixes[owner[b]] + suffixes[b], all of them left-padded, after
  what all rows begin with, if they do (`engine.scoring.read_common`).
  """

  prefixes: Array  # [P, L] int32
  prefix_valid: Array  # [P, L] bool
  owner: Array  # [B] int32
  suffixes: Array  # [B, S] int32
  suffix_valid: Array  # [B, S] bool; false in rows that only fill the batch


@flax.struct.dataclass
class PackedPrompts:
  """Prompts of unequal lengths side by side in rows, for a causal model.

  `document` and `branch` as in `PackedBatch`: prompts that begin alike are
  branches of one document. All go on after what all of them begin with, if
  they do (`engine.scoring.read_common`), which stands in no row.
  """

  tokens: Array  # [B, L] int32
  document: Array  # [B, L] int32
  branch: Array  # [B, L] int32
  last: Array  # [B, M] int32; any column of prompts that are not there


@flax.struct.dataclass
class Unpacked:
  """Prompts of a `PackedPrompts` [B, L] with M in a row, one after the other.

  number: [N] int32, its place in `last`, counted through all rows.
  columns: [N, W] int32, where its tokens stand, counted through all rows; -1
    after its end. Prompts that only fill the batch have no columns.
  """

  number: Array
  columns: Array


@flax.struct.dataclass
class Rollout:
  """Sampled responses with the data of a policy-gradient update.

  Log-probs are under the sampling distribution, softmax(logits / temperature),
  for the policy and the reference. `values[..., t]` is the value of the state
  before token t. Advantages and targets (of the value network) are filled in
  last.
  """

  prompts: PromptBatch
  response: Array  # [B, N, R] int32
  mask: Array  # [B, N, R] float32, 1 up to and including the first end token
  log_probs: Array  # [B, N, R] float32
  ref_log_probs: Array  # [B, N, R] float32
  values: Array  # [B, N, R] float32
  score: Array  # [B, N] float32
  advantages: Array | None = None  # [B, N, R] float32
  targets: Array | None = None  # [B, N, R] float32

  @property
  def texts(self) -> GroupBatch:
    """The prompts with their responses."""
    return GroupBatch(
      prompt=self.prompts.prompt,
      prompt_valid=self.prompts.prompt_valid,
      response=self.response,
      response_valid=self.mask > 0,
    )
