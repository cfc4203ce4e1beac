# SPDX-License-Identifier: Apache-2.0
"""Pairs per second of DPO: python -m rlaif_jax.bench.dpo."""

from __future__ import annotations


import jax
import numpy as np

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import workload
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder


def run(
  pairs: int = 8,
  prompt: int = 300,
  response: int = 40,
  *,
  ragged: bool = False,
  padded: bool = False,
  reference: bool = False,
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
    reference: computes the reference's log-probs in each update; otherwise
      they are data.
    repetitions: timed updates.
    model_config: the model.
  """
  settings = {
    "pairs": pairs,
    "prompt": prompt,
    "response": response,
    "ragged": ragged,
    "padded": padded,
    "reference": reference,
  }
  model, params = workload.build(model_config)
  log_probs = jax.jit(
    lambda params, part: scoring.pair_log_probs(model, params, part)
  )
  data = pairs_lib.random_pairs(
    pairs, prompt, response, ragged=ragged, vocab_size=model_config.vocab_size
  )
  rows = data.replace(ref_log_probs=np.stack(log_probs(params, data), axis=-1))
  if ragged and not padded:
    rows = pairs_lib.pack(rows)
  loss = dpo_model.make_loss(model, dpo_model.DPOConfig())
  update = pairs_lib.make_update(model.init, loss, rows)
  phases = pairs_lib.update_phases(model_config, data, with_logits=True)
  if reference:
    phases.append(pairs_lib.forward_phase(model_config, data))
  return workload.report(
    "dpo",
    "pairs",
    pairs,
    lambda: (log_probs(params, rows) if reference else None, update()),
    phases,
    repetitions=repetitions,
    settings=settings,
  )


if __name__ == "__main__":
  workload.main(run, __doc__)
