# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of judging in both orders: python -m rlaif_jax.bench.judge.

Prompts of one preamble, which is read before the clock starts, as in a run's
first call; `--plain` reads each of a pair's two prompts whole, and takes no
more logits than it needs either.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import backends
from rlaif_jax.models import decoder

OPTIONS = ("1", "2")


class NumberTokenizer:
  """Texts are token ids with spaces between them."""

  bos_id = None
  eos_id = workload.NEVER
  eos_ids = (workload.NEVER,)

  def encode(self, text: str) -> list[int]:
    """The ids in a text."""
    return [int(word) for word in text.split()]

  encode_plain = encode


def prompts_of(
  pairs: int, shared: int, context: int, candidate: int, *, vocab_size: int
) -> list[str]:
  """Two prompts a pair, in both orders."""
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
  """Each context once, and each order's candidates, after the preamble."""
  own = 2 * candidate
  columns = pairs * (context + 2 * own)
  attended = pairs * (
    context * shared + context * (context + 1) / 2
  ) + 2 * pairs * (own * (shared + context) + own * (own + 1) / 2)
  return [
    pairs_lib.branch_pass(
      config,
      name="prompts",
      columns=columns,
      attended=attended,
      read_out=2 * pairs,
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
) -> dict[str, Any]:
  """Log-probs of the options of all prompts, by the backend of the jobs."""
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
    extra={
      "pairs": pairs,
      "shared": shared,
      "context": context,
      "candidate": candidate,
      "plain": plain,
    },
  )
  return {**line, "log_probs": call()}


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pairs", type=int, default=32)
  parser.add_argument("--shared", type=int, default=600)
  parser.add_argument("--context", type=int, default=300)
  parser.add_argument("--candidate", type=int, default=40)
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--plain", action="store_true")
  parser.add_argument("--repetitions", type=int, default=3)
  run(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
  main()
