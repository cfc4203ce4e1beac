# SPDX-License-Identifier: Apache-2.0
"""Pairs per second of judging in both orders: python -m rlaif_jax.bench.judge.

All prompts share a preamble, whose cache is computed before the timed calls.
`--plain` reads the two prompts of each pair whole.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import backends
from rlaif_jax.models import decoder

OPTIONS = ("1", "2")


class NumberTokenizer:
  """A tokenizer of texts that are token ids, separated by spaces."""

  bos_id = None
  eos_id = workload.NO_EOS
  eos_ids = (workload.NO_EOS,)

  def encode(self, text: str) -> list[int]:
    """Returns the ids in a text."""
    return [int(word) for word in text.split()]

  encode_plain = encode


def prompts_of(
  pairs: int, shared: int, context: int, candidate: int, *, vocab_size: int
) -> list[str]:
  """Returns two prompts per pair, one for each order."""
  begin = workload.tokens(1, shared, vocab_size=vocab_size)[0]
  contexts = workload.tokens(pairs, context, vocab_size=vocab_size, seed=1)
  shape = (pairs, 2, candidate)
  texts = workload.tokens(
    2 * pairs, candidate, vocab_size=vocab_size, seed=2
  ).reshape(shape)
  return [
    " ".join(map(str, np.concatenate([begin, own, *order])))
    for own, (first, second) in zip(contexts, texts, strict=True)
    for order in ((first, second), (second, first))
  ]


def phases(
  config: decoder.DecoderConfig,
  pairs: int,
  shared: int,
  context: int,
  candidate: int,
) -> list[roofline.Phase]:
  """Counts each context once and each response in both orders."""
  own = 2 * candidate
  columns = pairs * (context + 2 * own)
  attended = pairs * (
    context * shared + context * (context + 1) / 2
  ) + 2 * pairs * (own * (shared + context) + own * (own + 1) / 2)
  return [
    model_flops.group_pass(
      config,
      name="prompts",
      columns=columns,
      attended=attended,
      states=2 * pairs,
      logits=2 * pairs,
      passes=1,
    )
  ]


def run(
  pairs: int = 32,
  shared: int = 600,
  context: int = 300,
  candidate: int = 40,
  *,
  plain: bool = False,
  batch_size: int = 16,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times the log-probs of the options, with the backend of the jobs.

  Args:
    pairs: number of pairs.
    shared: tokens of the preamble.
    context: tokens of a context.
    candidate: tokens of a response.
    plain: reads each prompt whole.
    batch_size: prompts per device call.
    repetitions: timed calls.
    model_config: the model.
  """
  model, params = workload.build(model_config)
  tokenizer = NumberTokenizer()
  texts = prompts_of(
    pairs, shared, context, candidate, vocab_size=model_config.vocab_size
  )
  backend = backends.FlaxBackend(
    model, params, tokenizer, name="bench", batch_size=batch_size
  )
  whole = jax.jit(
    functools.partial(scoring.option_log_probs, model),
    static_argnames="options",
  )
  options = tuple(tuple(tokenizer.encode(option)) for option in OPTIONS)

  def read_whole():
    rows = np.asarray([tokenizer.encode(text) for text in texts])
    valid = np.ones(rows.shape, bool)
    parts = [slice(i, i + batch_size) for i in range(0, len(rows), batch_size)]
    found = [
      np.asarray(whole(params, rows[part], valid[part], options=options))
      for part in parts
    ]
    return jnp.asarray(np.concatenate(found))

  def read_shared():
    return jnp.asarray(backend.score_options(texts, OPTIONS)[0])

  call = read_whole if plain else read_shared
  line = workload.report(
    "judge",
    "pairs",
    pairs,
    call,
    phases(model_config, pairs, shared, context, candidate),
    repetitions=repetitions,
    settings={
      "pairs": pairs,
      "shared": shared,
      "context": context,
      "candidate": candidate,
      "plain": plain,
    },
  )
  return {**line, "log_probs": call()}


if __name__ == "__main__":
  workload.main(run, __doc__)
