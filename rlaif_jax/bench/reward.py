# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of reward training: python -m rlaif_jax.bench.reward."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

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
) -> dict[str, Any]:
  """Updates on pairs; ragged ones are packed, unless they shall be padded.

  Args:
    pairs: of an update.
    prompt: tokens, at most.
    response: tokens of each candidate, at most.
    ragged: lengths are uniform up to these.
    padded: do not pack.
    separate: read the prompt again for each candidate, and do not pack.
    repetitions: of the update, after one that compiles.
    model_config: what is trained.
  """
  model = architectures.scalar(model_config)
  if separate:
    model = apart(model)
  data = pairs_lib.random_pairs(
    pairs, prompt, response, ragged=ragged, vocab_size=model_config.vocab_size
  )
  batch = data
  if ragged and not (padded or separate):
    batch = pairs_lib.packed(data)
  call = pairs_lib.timed_update(
    model.init, reward_model.make_loss(model), batch
  )
  return workload.report(
    "reward",
    "pairs",
    pairs,
    call,
    pairs_lib.update_phases(model_config, data, with_logits=False),
    repetitions=repetitions,
    extra={
      "pairs": pairs,
      "prompt": prompt,
      "response": response,
      "ragged": ragged,
      "padded": padded,
      "separate": separate,
    },
  )


def apart(model: protocols.ScalarModel) -> protocols.ScalarModel:
  """The same rewards from a row for each candidate: nothing is shared."""

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


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = pairs_lib.arguments(__doc__)
  parser.add_argument("--separate", action="store_true")
  run(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
  main()
