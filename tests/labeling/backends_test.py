# SPDX-License-Identifier: Apache-2.0
"""The Flax backend: whatever the batch, one answer to one question."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax.engine import prefix_sharing
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import packed_prompts
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
    assert scores[2] < scores[0]  # "10" is one continuation of "1".
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


def test_sharing_prefixes_changes_no_result(backend):
  """With and without shared prefixes, and whole likelihoods."""
  unshared = backends.FlaxBackend(
    dataclasses.replace(FUNCTIONS, cache=None),
    testing.build(FUNCTIONS),
    TOKENIZER,
    name="tiny",
    bucket=16,
  )
  same = "a preamble, the same for all: "
  prompts = [same + p for p in ("x one", "x two", "y", "", "x one", "y z")]
  for options in (("1", "2"), ("1", "2", "10")):
    np.testing.assert_allclose(
      backend.score_options(prompts, options)[0],
      unshared.score_options(prompts, options)[0],
      atol=1e-5,
    )
  texts = ["aa", "b", "ab ab", "c", "b", "d"]
  together, usage = backend.log_likelihoods(prompts, texts)
  alone, same_usage = unshared.log_likelihoods(prompts, texts)
  np.testing.assert_allclose(together, alone, atol=1e-4)
  assert usage == same_usage
  assert len({round(total, 3) for total, _ in together}) == 6
  ask = dict(max_tokens=5, temperature=1.0, top_k=5, seed=3, stop="")
  assert backend.complete(prompts, **ask) == unshared.complete(prompts, **ask)
  ragged = [*prompts, same + "z" * 25]
  assert packed_prompts.make_segments(
    [backend.encode(prompt) for prompt in ragged], bucket=16
  ).is_uneven
  assert backend.complete(ragged, **ask) == unshared.complete(ragged, **ask)


def test_the_prefix_of_all_prompts_is_read_once_for_all_calls(monkeypatch):
  """The caches of the last few prefixes are kept."""
  read = []
  prefill = prefix_sharing.prefill_prefix

  def counted(model, params, tokens, valid):
    jax.debug.callback(lambda real: read.append(int(real.sum())), valid)
    return prefill(model, params, tokens, valid)

  monkeypatch.setattr(prefix_sharing, "prefill_prefix", counted)
  backend = backends.FlaxBackend(
    FUNCTIONS, testing.build(FUNCTIONS), TOKENIZER, name="tiny", bucket=8
  )

  def ask(begin):
    prompts = [begin + "one", begin + "and two"]
    scores, _ = backend.score_options(prompts, ("1", "2"))
    jax.effects_barrier()
    return scores

  begins = [letter * 19 for letter in "abcde"]
  first = ask(begins[0])
  assert read == [20]
  assert ask(begins[0]) == first and read == [20]
  # The cache of the oldest prefix is dropped.
  for begin in begins[1 : backends.NUM_PREFIXES + 1]:
    ask(begin)
  assert len(read) == backends.NUM_PREFIXES + 1
  ask(begins[2])
  assert len(read) == backends.NUM_PREFIXES + 1
  assert ask(begins[0]) == first
  assert len(read) == backends.NUM_PREFIXES + 2


def test_an_empty_prompt_is_an_error():
  tokenizer = testing.CharTokenizer()
  backend = backends.FlaxBackend(FUNCTIONS, None, tokenizer, name="tiny")
  with pytest.raises(ValueError, match="prompt 1 is empty"):
    backend.score_options(["a", ""], ("1", "2"))


def test_a_prompt_is_a_user_message_of_a_chat():
  class Specials(testing.CharTokenizer):
    """`<e>` is a token of its own, unless it is in a plain text."""

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
