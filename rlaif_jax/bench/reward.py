# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of reward training: python -m rlaif_jax.bench.reward."""

from __future__ import annotations

from typing import Any, Sequence

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import workload
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
  repetitions: int = 4,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, Any]:
  """Updates on pairs; ragged ones are packed, unless they shall be padded."""
  model = architectures.scalar(model_config)
  data = pairs_lib.random_pairs(
    pairs, prompt, response, ragged=ragged, vocab_size=model_config.vocab_size
  )
  batch = data
  if ragged and not padded:
    batch, _ = pairs_lib.packed(data)
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
    },
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  run(**vars(pairs_lib.arguments(__doc__).parse_args(arguments)))


if __name__ == "__main__":
  main()
