# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.template_files, and of the files themselves."""

from __future__ import annotations

import itertools

import pytest

from rlaif_jax.text import template_files

PAIRWISE = """
name = "mine"
kind = "pairwise"
preamble = "Pick one.\\n"
sample = "T\\n{context}\\nA\\n{first}\\nB\\n{second}\\n"
ending = "Best=\\n"
options = ["1", "2"]
"""
TASKS = ("summary", "helpful", "harmless", "synopsis")
STYLES = ("base", "detailed")


def write(tmp_path, text, name="mine"):
  path = tmp_path / f"{name}.toml"
  path.write_text(text, encoding="utf-8")
  return path


def exemplar(context, label="1", rationale="So."):
  return (
    f'[[exemplars]]\ncontext = "{context}"\ncandidates = ["x", "y"]\n'
    f'label = "{label}"\nrationale = "{rationale}"\n'
  )


def contexts(template):
  return "".join(exemplar.context for exemplar in template.exemplars)


def pool(task):
  """The pool of a task as its detailed template shows it."""
  return template_files.load(f"{task}_detailed", num_exemplars=8).exemplars


def test_the_grid_of_the_paper():
  """Three tasks and ours, two styles, with and without CoT, 0-8 exemplars."""
  prints = set()
  for task, style, number in itertools.product(TASKS, STYLES, (0, 1, 2, 8)):
    template = template_files.load(f"{task}_{style}", num_exemplars=number)
    assert template.kind == "pairwise" and template.options == ("1", "2")
    assert len(template.exemplars) == number
    without, explained = (
      "".join(template.pairwise_parts(cot=cot)) for cot in (False, True)
    )
    assert without.endswith(template.ending)
    assert explained.endswith(template.cot_ending)
    for shown in template.exemplars:
      assert shown.context in without and shown.context in explained
      assert shown.rationale not in without and shown.rationale in explained
    prints.add(template.fingerprint())
  assert len(prints) == 4 * 2 * 4


def test_kinds_and_polarities_of_the_files():
  loaded = {name: template_files.load(name) for name in template_files.names()}
  for name in ("summary_rating", "helpful_rating", "docstring_rating"):
    assert loaded[name].kind == "pointwise"
  assert loaded["harmless_yes_no"].kind == "yesno"
  assert loaded["harmless_yes_no"].options == ("yes", "no")
  assert [name for name in loaded if loaded[name].polarity == "flip"] == [
    "harmless_base",
    "harmless_yes_no",
  ]


def test_every_file_is_a_template_or_the_pool_of_one():
  files = {path.stem for path in template_files.TEMPLATES.glob("*.toml")}
  named = {
    template_files.load(n).exemplars_file for n in template_files.names()
  }
  assert files - set(template_files.names()) == named - {""}
  assert named >= {f"{task}_exemplars" for task in TASKS}
  with pytest.raises(ValueError, match="no template 'summary_exemplars'"):
    template_files.load("summary_exemplars")


def better(shown):
  """(better candidate, worse candidate) of an exemplar."""
  first, second = shown.candidates
  return (first, second) if shown.label == "1" else (second, first)


@pytest.mark.parametrize("task", TASKS)
def test_answers_do_not_correlate_with_position_or_length(task):
  exemplars = pool(task)
  for number in (2, 4, 8):
    labels = [shown.label for shown in exemplars[:number]]
    assert labels.count("1") == labels.count("2")
  for measure in (len, lambda text: len(text.split())):
    longer = [
      measure(good) > measure(bad) for good, bad in map(better, exemplars)
    ]
    assert sum(longer[:2]) == 1 and sum(longer) == 4
    # And the place does not say whether the longer one wins.
    firsts = [shown.label == "1" for shown in exemplars]
    assert sum(a and b for a, b in zip(longer, firsts, strict=True)) == 2


@pytest.mark.parametrize("task", TASKS)
def test_exemplars_are_clean_texts(task):
  exemplars = pool(task)
  texts = [
    text for shown in exemplars for text in (shown.context, *shown.candidates)
  ]
  assert len(set(texts)) == 3 * 8
  for text in texts + [shown.rationale for shown in exemplars]:
    assert text == text.strip() and text.isascii() and "  " not in text
  for shown in exemplars:
    words = len(shown.context.split())
    assert words >= 40 or task in ("helpful", "harmless")
    assert words <= 120 and len(shown.rationale.split()) >= 20
    lines = shown.context.split("\n")
    if task == "summary":
      heads = [line.split(": ")[0] for line in lines]
      assert heads == ["SUBREDDIT", "TITLE", "POST"]
    elif task != "synopsis":
      assert len(lines) % 2  # the person speaks first and last
      for line, who in zip(lines, itertools.cycle(("Human", "Assistant"))):
        assert line.startswith(f"{who}: ")


def test_summary_rationales_grade_both_candidates_on_each_axis():
  axes = ("Coherence", "Accuracy", "Coverage", "Overall quality")
  for shown in pool("summary"):
    lines = shown.rationale.split("\n")
    assert [lines[0], lines[5]] == [f"Notes on Summary {i}" for i in (1, 2)]
    grades = []
    for line, axis in zip(lines[1:5] + lines[6:10], axes * 2, strict=True):
      head, grade = line.split(" of 10. ")[0].split(": ")
      assert head == axis
      grades.append(int(grade))
    assert all(1 <= grade <= 10 for grade in grades)
    # The grades and the last line agree with the label.
    assert (grades[3] > grades[7]) == (shown.label == "1")
    assert lines[10].startswith(f"Summary {shown.label} is better")


def test_rationales_end_with_the_answer():
  for shown in pool("helpful"):
    assert shown.rationale.endswith(f"Response {shown.label} helps more.")
  for shown in pool("synopsis"):
    assert shown.rationale.endswith(f"Synopsis {shown.label} is better.")


def test_the_harmless_pool_answers_both_questions():
  """One asks for the safer response, the other for the more harmful one."""
  safer, worse = (
    template_files.load(f"harmless_{style}", num_exemplars=8)
    for style in ("detailed", "base")
  )
  assert (safer.polarity, worse.polarity) == ("prefer", "flip")
  for one, other in zip(safer.exemplars, worse.exemplars, strict=True):
    assert one.candidates == other.candidates
    assert {one.label, other.label} == {"1", "2"}
    assert one.rationale.endswith(
      f"Response {other.label} does harm and Response {one.label} is safe."
    )


def test_short_templates_are_short():
  for name in ("docstring_pairwise", "docstring_rating"):
    template = template_files.load(name)
    assert len(template.preamble.split()) <= 8
    constants = template.preamble + template.sample + template.ending
    assert len(constants.split()) <= 14


def test_fingerprint_is_of_the_content(tmp_path):
  one = template_files.load(write(tmp_path, PAIRWISE))
  renamed = PAIRWISE.replace('"mine"', '"other"')
  other = template_files.load(write(tmp_path, renamed))
  assert other.fingerprint() == one.fingerprint()
  flipped = PAIRWISE + 'polarity = "flip"\n'
  other = template_files.load(write(tmp_path, flipped))
  assert other.fingerprint() != one.fingerprint()


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("ending", "endnig", "unknown keys.*endnig"),
    ('name = "mine"\n', "", "missing keys.*name"),
    ("{second}", "{third}", "placeholders"),
    ("A\\n{first}", "A {first}", "line of its own"),
    ("Pick one.\\n", "Pick one.", "preamble should end with a newline"),
    ('["1", "2"]', '["1"]', "has two"),
    ('["1", "2"]', '["1", "1"]', "differ"),
    ('"pairwise"', '"pairwize"', "kind is 'pairwize'"),
    ('ending = "Best=\\n"', 'ending = "\\n"', "ending is empty"),
    ('kind = "', 'polarity = "up"\nkind = "', "polarity is 'up'"),
    ('options = ["1", "2"]', "options = [", "Invalid value"),
  ],
)
def test_a_wrong_template_names_its_file(tmp_path, old, new, message):
  assert old in PAIRWISE
  path = write(tmp_path, PAIRWISE.replace(old, new))
  with pytest.raises(ValueError, match=message) as error:
    template_files.load(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  "exemplar, message",
  [
    ('candidates = ["x"]\nlabel = "1"', "1 has 1 candidates"),
    ('candidates = ["x", "y"]\nlabel = "3"', "label '3'"),
    ('candidates = ["x", "y"]\nlabel = "1"', "no rationale"),
    ('candidates = ["x", "y"]\nlable = "1"', "exemplar 1: .*keys.*lable"),
    (
      'candidates = ["x", "y"]\nlabel = 1',
      "exemplar 1: .*label is 1; it must be a",
    ),
    ('candidates = "xy"\nlabel = "1"', "exemplar 1: .*candidates is 'xy'"),
  ],
)
def test_a_wrong_exemplar_names_its_file(tmp_path, exemplar, message):
  text = PAIRWISE + 'cot_ending = "Why?\\n"\n[[exemplars]]\ncontext = "c"\n'
  path = write(tmp_path, text + exemplar + "\n")
  with pytest.raises(ValueError, match=message) as error:
    template_files.load(path)
  assert str(path) in str(error.value)


def test_an_unknown_name_suggests_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'summary_base'"):
    template_files.load("sumary_base")


def test_exemplars_come_from_the_pool_that_is_named(tmp_path):
  write(tmp_path, 'polarity = "prefer"\n' + exemplar("far", "2"), "far")
  own = exemplar("own")
  path = write(tmp_path, 'exemplars_file = "far"\n' + PAIRWISE + own)
  assert contexts(template_files.load(path)) == "own"
  assert contexts(template_files.load(path, num_exemplars=1)) == "far"
  assert contexts(template_files.load(path, num_exemplars=0)) == ""
  # A path, from the file that names it.
  path = write(tmp_path, 'exemplars_file = "sub/near.toml"\n' + PAIRWISE)
  (tmp_path / "sub").mkdir()
  write(tmp_path / "sub", 'polarity = "prefer"\n' + exemplar("near"), "near")
  assert contexts(template_files.load(path, num_exemplars=1)) == "near"
  # The library's pools need no copy.
  path = write(tmp_path, 'exemplars_file = "helpful_exemplars"\n' + PAIRWISE)
  loaded = template_files.load(path, num_exemplars=8)
  assert loaded.exemplars == pool("helpful")
  write(tmp_path, 'polarity = "prefer"\n' + own, "helpful_exemplars")
  assert contexts(template_files.load(path, num_exemplars=1)) == "own"
  # Without a pool: the file's own.
  path = write(tmp_path, PAIRWISE + exemplar("a") + exemplar("b"))
  assert contexts(template_files.load(path, num_exemplars=1)) == "a"


def test_a_seed_draws_without_replacement():
  whole = [shown.context for shown in pool("summary")]
  firsts = []
  for seed in range(60):
    drawn = {}
    for number in (1, 2, 8):
      template = template_files.load(
        "summary_base", num_exemplars=number, exemplar_seed=seed
      )
      drawn[number] = [shown.context for shown in template.exemplars]
    assert sorted(drawn[8]) == sorted(whole)
    assert drawn[8][:2] == drawn[2] and drawn[2][:1] == drawn[1]
    firsts += drawn[1]
  assert all(2 <= firsts.count(context) <= 15 for context in whole)  # 7.5
  # The same on every machine and in every run.
  titles = [text.split("\n")[0] for text in firsts[:3]]
  assert titles == ["SUBREDDIT: r/running"] * 2 + ["SUBREDDIT: r/relationships"]


def test_fingerprint_depends_on_exemplars_but_not_on_their_file(tmp_path):
  rows = exemplar("a") + exemplar("b", "2")
  write(tmp_path, 'polarity = "prefer"\n' + rows, "pool")
  path = write(tmp_path, 'exemplars_file = "pool"\n' + PAIRWISE)
  prints = [
    template_files.load(path, num_exemplars=number).fingerprint()
    for number in (0, 1, 2)
  ]
  assert len(set(prints)) == 3
  assert template_files.load(path).fingerprint() == prints[0]
  inside = write(tmp_path, PAIRWISE + rows, "inside")
  assert template_files.load(inside).fingerprint() == prints[2]


@pytest.mark.parametrize(
  "text, message",
  [
    ("", r"missing keys \['polarity'\]"),
    ('polarity = "up"\n' + exemplar("a"), "polarity is 'up'"),
    (
      'polarity = "prefer"\n' + exemplar("a") + exemplar("b", "3"),
      "exemplar 2 has the label '3'",
    ),
    (
      'polarity = "prefer"\n' + exemplar("a") + exemplar("b", "2", " "),
      "exemplar 2 has no rationale",
    ),
    (
      'polarity = "prefer"\n' + exemplar("a").replace(', "y"', ""),
      "exemplar 1 has 1 candidates",
    ),
    (
      'polarity = "prefer"\n' + exemplar("a").replace("label", "lable"),
      "exemplar 1: .*unknown keys.*lable",
    ),
    ('polarity = "prefer"\n' + exemplar("a"), "is 2, but .*pool.toml has 1"),
  ],
)
def test_a_wrong_pool_names_its_file(tmp_path, text, message):
  where = write(tmp_path, text, "pool")
  start = 'exemplars_file = "pool"\ncot_ending = "Why?\\n"\n'
  path = write(tmp_path, start + PAIRWISE)
  with pytest.raises(ValueError, match=message) as error:
    template_files.load(path, num_exemplars=2)
  assert str(path) in str(error.value) and str(where) in str(error.value)
  # Who asks for no exemplars reads no pool.
  assert not template_files.load(path, num_exemplars=0).exemplars


def test_impossible_numbers_of_exemplars(tmp_path):
  path = write(tmp_path, PAIRWISE)
  with pytest.raises(ValueError, match="is 1, but the template .* has 0"):
    template_files.load(path, num_exemplars=1)
  with pytest.raises(ValueError, match="num_exemplars is -1"):
    template_files.load(path, num_exemplars=-1)
  with pytest.raises(ValueError, match="seed is 3, but num_exemplars is None"):
    template_files.load(path, exemplar_seed=3)
  path = write(tmp_path, 'exemplars_file = "lost"\n' + PAIRWISE)
  with pytest.raises(ValueError, match="no file at .*lost.toml or .*lost.toml"):
    template_files.load(path, num_exemplars=1)


RATING = """
name = "mine"
kind = "pointwise"
preamble = "Say.\\n"
sample = "T\\n{context}\\nA\\n{response}\\n"
ending = "Is=\\n"
options = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
"""
YESNO = RATING.replace("pointwise", "yesno").replace(
  RATING[RATING.index("options") :], 'options = ["yes", "no"]\n'
)


def test_only_pools_with_two_options_are_flipped(tmp_path):
  row = exemplar("a", "yes").replace(', "y"', "")
  write(tmp_path, 'polarity = "flip"\n' + row, "pool")
  path = write(tmp_path, 'exemplars_file = "pool"\n' + YESNO)
  (shown,) = template_files.load(path, num_exemplars=1).exemplars
  assert shown.label == "no"
  path = write(tmp_path, 'polarity = "flip"\nexemplars_file="pool"\n' + YESNO)
  (shown,) = template_files.load(path, num_exemplars=1).exemplars
  assert shown.label == "yes"
  write(tmp_path, 'polarity = "flip"\n' + row.replace("yes", "7"), "pool")
  path = write(tmp_path, 'exemplars_file = "pool"\n' + RATING)
  with pytest.raises(ValueError, match="pool.toml: polarity is 'flip'"):
    template_files.load(path, num_exemplars=1)


def test_templates_of_one_response_are_checked(tmp_path):
  for text, message in (
    ('polarity = "flip"\n' + RATING, "'flip', but a pointwise"),
    (YESNO.replace('"no"', '"no", "maybe"'), "a yesno template has two"),
    (YESNO.replace('"yesno"', '"rubric"'), "'criterion'\\), once each"),
    (RATING.replace('"10"', '"11"'), "has 1 to 10"),
  ):
    with pytest.raises(ValueError, match=message):
      template_files.load(write(tmp_path, text))


def test_yes_or_no_in_parts(tmp_path):
  text = YESNO + 'cot_ending = "Why?\\n"\n'
  row = exemplar("c", "no").replace(', "y"', "")
  template = template_files.load(write(tmp_path, text + row))
  example = "=== Example ===\nT\nc\nA\nx\n"
  turn = "=== Now answer for this one ===\nT\n"
  assert template.yesno_parts() == (
    f"Say.\n{example}Is=\nno\n\n{turn}",
    "\nA\n",
    "\nIs=\n",
  )
  assert template.yesno_parts(cot=True) == (
    f"Say.\n{example}Why?\nSo.\nIs=\nno\n\n{turn}",
    "\nA\n",
    "\nWhy?\n",
  )
