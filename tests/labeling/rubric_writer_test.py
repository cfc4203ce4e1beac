# SPDX-License-Identifier: Apache-2.0
"""Rubrics that a language model writes."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import rubric_writer
from rlaif_jax.labeling import rubrics
from tests import testing

TOKENIZER = testing.CharTokenizer()


def test_lines_of_a_list_are_criteria():
  output = """Here are the questions:
1. [2] Does it name the tool?
2) [-1] Does it repeat itself?
- [hard] Is it one sentence?
* Is it clear?
3. This is no question.
4. [2] Does it name the tool?
What about this?"""
  assert rubric_writer.parse(output) == (
    rubrics.Criterion(text="Does it name the tool?", weight=2.0),
    rubrics.Criterion(text="Does it repeat itself?", weight=-1.0),
    rubrics.Criterion(text="Is it one sentence?", hard=True),
    rubrics.Criterion(text="Is it clear?"),
  )
  assert rubric_writer.parse("nothing") == ()


def test_each_context_has_its_rubric_or_is_set_aside():
  backend = testing.ScriptedBackend(
    None,
    lambda prompt, seed: "no list" if "bad" in prompt else "1. Is it a cat?\n",
  )
  config = rubric_writer.RubricWriterConfig(
    before="<", after=">", max_context_tokens=5
  )
  quarantine = jsonl.Quarantine()
  found, usage = rubric_writer.write(
    ["a cat sat", "bad"],
    backend,
    config,
    tokenizer=TOKENIZER,
    quarantine=quarantine,
  )
  # The rubric is of the whole context; the labeler reads what fits.
  assert [rubric.context for rubric in found] == ["a cat sat"]
  assert backend.completions[0][0] == ["<a cat>", "<bad>"]
  assert backend.completions[0][1]["max_tokens"] == config.max_tokens
  assert usage.requests == 2
  assert "wrote no criterion: 'no list'" in quarantine.rows[0]["reason"]
  with pytest.raises(ValueError, match="wrote no criterion"):
    rubric_writer.write(["bad"], backend, config, tokenizer=TOKENIZER)


def test_criteria_without_weight_are_no_rubric():
  backend = testing.ScriptedBackend(None, lambda p, seed: "1. [0] Is it?")
  with pytest.raises(ValueError, match="wrote no criterion"):
    rubric_writer.write(
      ["c"], backend, rubric_writer.RubricWriterConfig(), tokenizer=TOKENIZER
    )


def test_the_prompt_shows_a_list_that_is_read():
  shown = rubric_writer.RubricWriterConfig().after
  assert [c.weight for c in rubric_writer.parse(shown)] == [2.0, -1.0]


def test_a_stopped_run_resumes_with_equal_files(tmp_path, monkeypatch):
  def make(name="scripted"):
    return testing.ScriptedBackend(
      None,
      lambda prompt, seed: "" if "bad" in prompt else f"1. Is it {prompt[1]}?",
      name=name,
    )

  contexts = ["a", "b", "bad", "c", "d"]
  config = rubric_writer.RubricWriterConfig(before="<", after=">")

  def run(path, backend, config=config):
    quarantine, commits = jsonl.Quarantine(), []
    found = rubric_writer.write_in_chunks(
      path,
      contexts,
      backend,
      config,
      tokenizer=TOKENIZER,
      quarantine=quarantine,
      chunk_size=2,
      commit=commits.append,
    )
    return (*found, quarantine.rows), commits

  whole, commits = run(tmp_path / "whole.jsonl", make())
  assert len(whole[0]) == 4 and len(whole[2]) == 1
  assert commits == [True, False, True] and whole[1].requests == 5
  path = tmp_path / "out" / "part.jsonl"
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="after chunk 1"):
    run(path, make())
  with pytest.raises(preemption.Preempted, match="after chunk 1"):
    run(path, make())
  monkeypatch.undo()
  path.write_bytes(path.read_bytes() + b'{"torn')
  backend = make()
  resumed, _ = run(path, backend)
  assert resumed == whole and len(backend.completions) == 2
  assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
  # Another model, or other settings, use nothing of it.
  for other, changed in (
    (make("other"), config),
    (make(), rubric_writer.RubricWriterConfig(before="<", after="!")),
  ):
    run(path, other, changed)
    assert len(other.completions) == 3
