# SPDX-License-Identifier: Apache-2.0
"""Pairs per second of reward training: python -m rlaif_jax.bench.reward."""

from __future__ import annotations

import dataclasses

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.reward import model as reward_model


def run(
  pairs: int = 8,
  prompt: int = 300,
  response: int = 40,
  *,
  ragged: bool = False,
  padded: bool = False,
  separate: bool = False,
  repetitions: int = 4,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times updates on random pairs.

  Args:
    pairs: pairs per update.
    prompt: maximum tokens of a prompt.
    response: maximum tokens of a response.
    ragged: lengths are uniform up to the maxima, and pairs are packed.
    padded: does not pack ragged pairs.
    separate: reads the prompt again for each response, and does not pack.
    repetitions: timed updates.
    model_config: the model.
  """
  settings = {
    "pairs": pairs,
    "prompt": prompt,
    "response": response,
    "ragged": ragged,
    "padded": padded,
    "separate": separate,
  }
  model = architectures.scalar(model_config)
  if separate:
    model = repeat_prompts(model)
  data = pairs_lib.random_pairs(
    pairs, prompt, response, ragged=ragged, vocab_size=model_config.vocab_size
  )
  is_packed = ragged and not (padded or separate)
  call = pairs_lib.make_update(
    model.init,
    reward_model.make_loss(model),
    pairs_lib.pack(data) if is_packed else data,
  )
  return workload.report(
    "reward",
    "pairs",
    pairs,
    call,
    pairs_lib.update_phases(model_config, data, with_logits=False),
    repetitions=repetitions,
    settings=settings,
  )


def repeat_prompts(model: protocols.ScalarModel) -> protocols.ScalarModel:
  """Returns a model that reads each response in a row of its own."""

  def last(params, group):
    rows, count, columns = group.response.shape
    repeated = batches.repeat_rows(group, count)
    one = (rows * count, 1, columns)
    alone = repeated.replace(
      response=group.response.reshape(one),
      response_valid=group.response_valid.reshape(one),
    )
    return model.last(params, alone).reshape(rows, count)

  return dataclasses.replace(model, last=last)


if __name__ == "__main__":
  workload.main(run, __doc__)
