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
class PairBatch:
  """Two candidates per context; label is P(first is better) in [0, 1]."""

  first: TokenBatch
  second: TokenBatch
  label: Array  # [B] float32
  weight: Array  # [B] float32; 0 for rows that only fill the batch


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

  Row b is common + prefixes[owner[b]] + suffixes[b], all of them left-padded.
  """

  common: Array  # [1, C] int32
  common_valid: Array  # [1, C] bool
  prefixes: Array  # [P, L] int32
  prefix_valid: Array  # [P, L] bool
  owner: Array  # [B] int32
  suffixes: Array  # [B, S] int32
  suffix_valid: Array  # [B, S] bool; false in rows that only fill the batch


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
