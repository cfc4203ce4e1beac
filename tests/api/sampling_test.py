# SPDX-License-Identifier: Apache-2.0
"""Samples as records, and the file of finished batches."""

from __future__ import annotations

import numpy as np

from rlaif_jax.api import sampling
from rlaif_jax.core import records
from tests import testing

TOKENIZER = testing.CharTokenizer()
EXAMPLE = records.Example(id="1", context="c", response="r")


def response(text, *, end, tokens):
  ids = TOKENIZER.encode(text) + [TOKENIZER.eos_id] * end
  samples = sampling.Samples(
    response=np.array([ids + [0] * (8 - len(ids))]),
    mask=np.array([[1.0] * len(ids) + [0.0] * (8 - len(ids))]),
    log_prob=np.array([-1.5]),
    ref_log_prob=np.array([-2.0]),
  )
  found = sampling.to_response(EXAMPLE, 3, samples, 0, TOKENIZER)
  assert found.tokens == tokens and found.index == 3
  assert (found.log_prob, found.ref_log_prob) == (-1.5, -2.0)
  return found.text, found.finished


def test_the_end_token_counts_and_is_not_text():
  assert response(" a cat", end=True, tokens=7) == ("a cat", True)
  assert response("cats", end=False, tokens=4) == ("cats", False)
  assert response("", end=True, tokens=1) == ("", True)


def test_finished_batches_are_read_again_and_a_torn_line_is_not(tmp_path):
  path = tmp_path / "out" / "partial.jsonl"
  batch = [
    records.Response(
      id=str(i), index=0, context="c", text="t", tokens=1, finished=True
    )
    for i in range(2)
  ]
  finished = sampling.FinishedBatches(path)
  assert finished.responses == []
  finished.append(batch)
  finished.append(batch[:1])
  with open(path, "a", encoding="utf-8") as f:
    f.write('[{"id": "2"')
  again = sampling.FinishedBatches(path)
  assert again.responses == [batch, batch[:1]]
  again.append(batch)
  assert len(sampling.FinishedBatches(path).responses) == 3
