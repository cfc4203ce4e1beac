# SPDX-License-Identifier: Apache-2.0
"""Rubrics: scores from the definition, and which rubric a context has."""

from __future__ import annotations

import itertools
import math

import pytest

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.labeling import rubrics


def criterion(text="q?", **changes):
  return rubrics.Criterion(text=text, **changes)


def rubric(*criteria, context=""):
  return rubrics.Rubric(context=context, criteria=tuple(criteria))


def test_the_score_is_the_weighted_mean_of_what_is_met():
  two = rubric(criterion("a?", weight=3.0), criterion("b?", weight=-1.0))
  # The second speaks against the response: P(met) is P(no).
  assert two.score([0.8, 0.1]) == pytest.approx((3 * 0.8 + 0.9) / 4)
  assert two.score([1.0, 0.0]) == 1.0 and two.score([0.0, 1.0]) == 0.0


def test_a_violated_hard_criterion_ranks_below_everything_else():
  """Exhaustively, for all answers: it never ranks above one that meets it."""
  three = rubric(
    criterion("a?"),
    criterion("must?", hard=True, weight=5.0),
    criterion("b?", weight=2.0),
  )
  for low, high in itertools.product(
    itertools.product((0.0, 0.3, 1.0), repeat=2), repeat=2
  ):
    violated = three.score((low[0], 0.49, low[1]))
    met = three.score((high[0], 0.5, high[1]))
    assert violated <= met
    # Its weight does not count, and the order below it is that of the others.
    assert violated == pytest.approx((low[0] + 2 * low[1]) / 3 - 1)
  never = rubric(criterion("bad?", hard=True, weight=-1.0))
  assert never.score([0.2]) == 0.0 and never.score([0.9]) == -1.0


def test_two_violations_count_once():
  hard = rubric(criterion("a?", hard=True), criterion("b?", hard=True))
  assert hard.score([0.1, 0.1]) == hard.score([0.9, 0.1]) == -1.0


@pytest.mark.parametrize("hard", [False, True])
def test_a_weight_of_zero_changes_nothing(hard):
  plain = rubric(criterion("a?"), criterion("b?", weight=2.0))
  more = rubric(
    criterion("a?"),
    criterion("z?", weight=0.0, hard=hard),
    criterion("b?", weight=2.0),
  )
  assert more.asked == plain.asked
  assert more.score([0.25, 0.5]) == plain.score([0.25, 0.5])


def test_a_rubric_without_criteria_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="the 0 criteria of the context 'doc'"):
    rubrics.Rubric(context="doc", criteria=())
  with pytest.raises(ValueError, match="the 1 criteria .* have no weight"):
    rubric(criterion(weight=0.0))
  path = tmp_path / "rubrics.jsonl"
  jsonl.write_rows(path, [{"criteria": []}])
  with pytest.raises(ValueError, match="rubrics.jsonl:1: .*0 criteria"):
    rubrics.read(str(path))
  path.write_text("")
  with pytest.raises(ValueError, match="has no rubrics; write rows such as"):
    rubrics.read(str(path))


@pytest.mark.parametrize("text", ["", " ", "a?\nb?", " a?"])
def test_a_criterion_is_one_line(text):
  with pytest.raises(ValueError, match="it should be one line"):
    criterion(text)


def test_a_weight_is_finite():
  with pytest.raises(ValueError, match="weight of 'q\\?' is nan"):
    criterion(weight=math.nan)


def test_contexts_find_their_rubric_or_the_one_without_context():
  own, other = rubric(criterion("a?"), context="doc"), rubric(criterion("b?"))
  both = rubrics.Rubrics([other, own])
  assert both.find("doc") == own and both.find("new") == other
  assert both.has_default
  alone = rubrics.Rubrics([own])
  assert alone.find("new") is None and not alone.has_default
  assert rubrics.Rubrics([own, other]).fingerprint() == both.fingerprint()
  assert alone.fingerprint() != both.fingerprint()


def test_two_rubrics_of_one_context_differ_in_nothing():
  one, two = (rubric(criterion(q), context="doc") for q in ("a?", "b?"))
  assert rubrics.Rubrics([one, one]).find("doc") == one
  with pytest.raises(ValueError, match="two rubrics of the context 'doc'"):
    rubrics.Rubrics([one, two])
  # By what a policy reads of a context, two contexts may be one.
  apart = [one, rubric(criterion("b?"), context="docs")]
  assert rubrics.Rubrics(apart).find("docs") == apart[1]
  with pytest.raises(ValueError, match="two rubrics of the context 'doc'"):
    rubrics.Rubrics(apart, key=lambda contexts: [c[:3] for c in contexts])


def test_a_file_is_read_again_when_it_changes_and_noted_each_time(tmp_path):
  path = tmp_path / "rubrics.jsonl"
  noted = []
  with inputs.recording(noted.append):
    jsonl.write_records(path, [rubric(criterion("a?"))])
    first = rubrics.read(str(path))
    assert rubrics.read(str(path)) is first
    assert noted.count(path) >= 2
    jsonl.write_records(path, [rubric(criterion("longer?"))])
    assert rubrics.read(str(path)).find("").criteria[0].text == "longer?"


def test_a_toml_file_is_the_rubric_of_every_context(tmp_path):
  path = tmp_path / "mine.toml"
  path.write_text('[[criteria]]\ntext = "a?"\nweight = 2.0\n')
  found = rubrics.read(str(path))
  assert found.find("new") == rubric(criterion("a?", weight=2.0))
  path.write_text('[[criteria]]\ntext = "a?"\nimportance = 2\n')
  with pytest.raises(ValueError, match="mine.toml: .*importance"):
    rubrics.read(str(path))
  with pytest.raises(
    ValueError, match="no file of rubrics .mine.*synopsis_rubric"
  ):
    rubrics.read("mine")


@pytest.mark.parametrize(
  "path", rubrics.FILES.glob("*_rubric.toml"), ids=lambda p: p.stem
)
def test_the_files_of_the_library_are_rubrics(path):
  found = rubrics.read(path.stem)
  assert found.has_default and len(found.find("").asked) >= 3
