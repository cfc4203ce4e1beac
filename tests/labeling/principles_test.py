# SPDX-License-Identifier: Apache-2.0
"""Files of principles, draws of them, and the reward model's text."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from rlaif_jax.labeling import principles
from tests import testing

TOKENIZER = testing.CharTokenizer()


def principle(text="It is short.", **changes):
  return principles.Principle(text=text, **changes)


def test_a_file(tmp_path):
  path = tmp_path / "mine.toml"
  path.write_text(
    '[[principles]]\ntext = "Short."\nnegation = "Long."\nweight = 2.0\n'
    '[[principles]]\ntext = "Polite."\nwhere = "(?i)dear"\n'
    '[[principles]]\ntext = "No praise."\nalways = true\n'
  )
  found = principles.read(str(path))
  names = lambda rows: [row.text for row in rows]  # noqa: E731
  assert names(found.of("Dear all")) == ["Short.", "Polite."]
  assert names(found.of("hello")) == ["Short."]
  assert names(found.standing("hello")) == ["No praise."]
  assert found.of("")[0].negation == "Long."
  path.write_text('[[principles]]\nnegation = "Long."\n')
  with pytest.raises(
    ValueError, match="mine.toml: .*missing keys \\['text'\\]"
  ):
    principles.read(str(path))
  with pytest.raises(ValueError, match="no file of principles 'x'.*synopsis_p"):
    principles.read("x")


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"text": ""}, "text is ''; it should be a sentence"),
    ({"text": "a\nb"}, "text is 'a.*it should be a sentence on one"),
    ({"negation": " x"}, "negation is ' x'"),
    ({"text": "a", "negation": "a"}, "its own negation"),
    ({"where": "("}, "no regular expression"),
    ({"weight": 0.0}, "weight is 0.0"),
  ],
)
def test_a_wrong_principle_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    principle(**changes)


def test_a_file_has_principles_to_draw():
  for rows in ((), (principle(always=True),), (principle(), principle())):
    with pytest.raises(ValueError, match="write at least one"):
      principles.Principles(principles=rows)


@pytest.mark.parametrize(
  "path", principles.FILES.glob("*_principles.toml"), ids=lambda p: p.stem
)
def test_the_files_of_the_library(path):
  found = principles.read(path.stem)
  assert all(row.negation for row in found.of("any context"))


def test_draws_follow_the_weights_without_replacement():
  rows = [principle("a", weight=3.0), principle("b"), principle("c")]
  counts = collections.Counter()
  for seed in range(3000):
    drawn = principles.draw(rows, 2, np.random.default_rng(seed))
    assert len({row.text for row in drawn}) == 2
    counts[drawn[0].text] += 1
  assert counts["a"] / 3000 == pytest.approx(0.6, abs=0.03)
  every = principles.draw(rows, 9, np.random.default_rng(0))
  assert sorted(row.text for row in every) == ["a", "b", "c"]


def test_the_response_comes_first_and_the_principles_last():
  text = principles.render("doc", "resp", ["P.", "Q."], TOKENIZER, 99)
  assert text == "Response\nresp\n\nText\ndoc\n\nPrinciples\n- P.\n- Q.\n"
  size = len(text)
  cut = principles.render("doc" * 9, "resp", ["P.", "Q."], TOKENIZER, size)
  assert cut == text
  with pytest.raises(ValueError, match="2 principles has .* reads 20"):
    principles.render("doc", "resp", ["P.", "Q."], TOKENIZER, 20)


def test_fingerprints_are_of_the_content():
  one = principles.Principles(principles=(principle(),))
  same = principles.Principles(principles=(principle(),))
  other = principles.Principles(principles=(principle(where="x"),))
  assert one.fingerprint() == same.fingerprint() != other.fingerprint()
