# SPDX-License-Identifier: Apache-2.0
"""The Flax backend: whatever the batch, one answer to one question."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.labeling import backends
from rlaif_jax.models import decoder
from tests import testing

TOKENIZER = testing.CharTokenizer(bos=True)
FUNCTIONS = decoder.functions(
  testing.tiny_decoder(TOKENIZER.vocab_size, max_length=64)
)
PROMPTS = ["which is better?", "a", "one two three four", "bb", "c" * 40]


@pytest.fixture(scope="module")
def backend():
  params = testing.build(FUNCTIONS)
  return backends.FlaxBackend(
    FUNCTIONS, params, TOKENIZER, name="tiny", batch_size=2, bucket=16
  )


def test_answers_come_in_order_and_do_not_depend_on_the_batch(backend):
  together, usage = backend.score_options(PROMPTS, ("1", "2", "10"))
  for prompt, scores in zip(PROMPTS, together):
    alone, _ = backend.score_options([prompt], ("1", "2", "10"))
    np.testing.assert_allclose(scores, alone[0], atol=1e-5)
    assert scores[2] < scores[0]  # "10" is one way to go on after "1".
  assert usage.requests == 5
  assert usage.input_tokens == sum(len(p) + 1 for p in PROMPTS)


def test_completions_depend_on_seed_and_prompt_alone(backend):
  ask = dict(max_tokens=5, temperature=1.0, top_k=5, seed=3, stop="")
  together, usage = backend.complete(PROMPTS[:4], **ask)
  alone, _ = backend.complete([PROMPTS[2]], **ask)
  assert together[2] == alone[0]
  other, _ = backend.complete(PROMPTS[:4], **{**ask, "seed": 4})
  assert other != together
  again, _ = backend.complete([PROMPTS[2]] * 4, **ask)
  assert len(set(again)) > 1
  assert 4 <= usage.output_tokens <= 20


def test_text_ends_before_the_stop_string(backend):
  ask = dict(max_tokens=8, temperature=0.0, top_k=0, seed=0)
  whole, _ = backend.complete(["ab"], stop="", **ask)
  assert len(whole[0]) > 1
  cut, _ = backend.complete(["ab"], stop=whole[0][1], **ask)
  assert cut[0] == whole[0].split(whole[0][1])[0]


def test_a_prompt_longer_than_the_model_is_an_error(backend):
  with pytest.raises(ValueError, match="reads at most"):
    backend.score_options(["x" * 80], ("1", "2"))


def test_long_prompts_share_lengths():
  lengths = [backends.bucket_length(n, 32) for n in (0, 1, 32, 33, 256, 257)]
  assert lengths == [32, 32, 32, 64, 256, 320]
  assert backends.bucket_length(513, 32) == 640
  waste = max(
    (backends.bucket_length(n, 32) - n) / backends.bucket_length(n, 32)
    for n in range(257, 4000)
  )
  assert waste < 0.2


def test_a_prompt_is_a_user_message_of_a_chat():
  class Specials(testing.CharTokenizer):
    """`<e>` is a token of its own, unless it stands in a plain text."""

    def encode_plain(self, text):
      return [self._ids[character] for character in text]

  tokenizer = Specials(["<e>"], bos=True)
  backend = backends.FlaxBackend(
    FUNCTIONS, None, tokenizer, name="tiny", chat=("u:", "<e>a:")
  )
  ids = backend.encode("x<e>")
  assert ids[0] == tokenizer.bos_id
  assert tokenizer.decode(ids) == "u:x<e><e>a:"
  end = tokenizer.encode("<e>")
  assert len(end) == 1 and ids.count(end[0]) == 1
