# SPDX-License-Identifier: Apache-2.0
"""Responses per second of asking criteria: python -m rlaif_jax.bench.rubric.

All questions share a preamble, whose cache is computed before the timed calls,
and those about a response share context and response. `--criteria=1` is the
cost of one pointwise question. `--plain` asks each question in a call of its
own size, without shared contexts.
"""

from __future__ import annotations

import numpy as np

from rlaif_jax.bench import judge
from rlaif_jax.bench import model_flops
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.labeling import backends
from rlaif_jax.models import decoder

OPTIONS = ("1", "2")


def prompts_of(
  responses: int,
  criteria: int,
  shared: int,
  context: int,
  question: int,
  *,
  vocab_size: int,
) -> list[str]:
  """Returns the questions about each response, which all have one length."""
  begin = workload.tokens(1, shared, vocab_size=vocab_size)[0]
  contexts = workload.tokens(responses, context, vocab_size=vocab_size, seed=1)
  questions = workload.tokens(criteria, question, vocab_size=vocab_size, seed=2)
  return [
    " ".join(map(str, np.concatenate([begin, own, asked])))
    for own in contexts
    for asked in questions
  ]


def phases(
  config: decoder.DecoderConfig,
  responses: int,
  criteria: int,
  shared: int,
  context: int,
  question: int,
) -> list[roofline.Phase]:
  """Counts each context once and each of its questions."""
  attended = context * shared + context * (context + 1) / 2
  attended += criteria * (
    question * (shared + context) + question * (question + 1) / 2
  )
  return [
    model_flops.group_pass(
      config,
      name="questions",
      columns=responses * (context + criteria * question),
      attended=responses * attended,
      states=responses * criteria,
      logits=responses * criteria,
      passes=1,
    )
  ]


def run(
  responses: int = 32,
  criteria: int = 6,
  shared: int = 60,
  context: int = 340,
  question: int = 20,
  *,
  plain: bool = False,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times the log-probs of yes and no, with the backend of the jobs.

  Args:
    responses: number of responses.
    criteria: questions about each.
    shared: tokens of the preamble.
    context: tokens of context and response.
    question: tokens of a question.
    plain: asks about one criterion per call.
    repetitions: timed calls.
    model_config: the model.
  """
  model, params = workload.build(model_config)
  texts = prompts_of(
    responses,
    criteria,
    shared,
    context,
    question,
    vocab_size=model_config.vocab_size,
  )
  backend = backends.FlaxBackend(
    model, params, judge.NumberTokenizer(), name="bench", batch_size=32
  )
  calls = [texts[k::criteria] for k in range(criteria)] if plain else [texts]

  def call():
    found = [backend.score_options(part, OPTIONS)[0] for part in calls]
    return np.asarray(found).reshape(len(calls), responses, -1, len(OPTIONS))

  line = workload.report(
    "rubric",
    "responses",
    responses,
    call,
    phases(model_config, responses, criteria, shared, context, question),
    repetitions=repetitions,
    settings={
      "responses": responses,
      "criteria": criteria,
      "shared": shared,
      "context": context,
      "question": question,
      "plain": plain,
    },
  )
  found = np.moveaxis(call(), 0, 1).reshape(responses, criteria, len(OPTIONS))
  return {**line, "log_probs": found}


if __name__ == "__main__":
  workload.main(run, __doc__)
