# SPDX-License-Identifier: Apache-2.0
"""The journal of paid answers: nothing is asked or counted twice."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import journal

ONE = records.Usage(input_tokens=7, requests=1)
SETTINGS = dict(max_tokens=3, temperature=1.0, top_k=0, seed=0, stop="")


class Paid:
  """Answers with the length of the prompt; `fail_at` dies there."""

  name = "paid"

  def __init__(self, *, fail_at: int = -1):
    self.on_output = None
    self.asked: list[str] = []
    self._fail_at = fail_at

  def prefix_options(self, options):
    return (-1,) * len(options)

  def score_options(self, prompts, options):
    return self._each(prompts, lambda p: [-float(len(p)), -1.5])

  def complete(self, prompts, **settings):
    return self._each(prompts, lambda p: f"{p} {len(self.asked)}")

  def _each(self, prompts, answer):
    result = []
    for number, prompt in enumerate(prompts):
      if len(self.asked) == self._fail_at:
        raise KeyboardInterrupt
      self.asked.append(prompt)
      result.append(answer(prompt))
      if "broken" not in prompt:
        self.on_output(number, result[-1], ONE)
    total = records.Usage(input_tokens=7 * len(prompts), requests=len(prompts))
    return result, total


def test_after_a_kill_only_the_rest_is_asked(tmp_path):
  prompts = ["a", "bb", "ccc", "dddd"]
  first = Paid(fail_at=2)
  with pytest.raises(KeyboardInterrupt):
    journal.JournaledBackend(first, tmp_path / "j").score_options(
      prompts, ("1", "2")
    )
  second = Paid()
  again = journal.JournaledBackend(second, tmp_path / "j")
  rows, usage = again.score_options(prompts, ("1", "2"))
  assert second.asked == ["ccc", "dddd"]
  assert rows == [[-float(len(p)), -1.5] for p in prompts]
  assert usage == records.Usage(input_tokens=28, requests=4)
  # Other options are another question.
  again.score_options(prompts, ("2", "1"))
  assert len(second.asked) == 6


def test_sigkill_between_two_answers(tmp_path):
  code = (
    "import os, signal, sys; from tests.labeling import journal_test as t\n"
    "class Killed(t.Paid):\n"
    "  def _each(self, prompts, answer):\n"
    "    self.on_output(0, answer(prompts[0]), t.ONE)\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "b = t.journal.JournaledBackend(Killed(), sys.argv[1])\n"
    "b.score_options(['a', 'bb'], ('1', '2'))\n"
  )
  root = pathlib.Path(__file__).parents[2]
  path = tmp_path / "j"
  run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root)
  assert run.returncode == -signal.SIGKILL
  backend = Paid()
  again = journal.JournaledBackend(backend, path)
  rows, _ = again.score_options(["a", "bb"], ("1", "2"))
  assert backend.asked == ["bb"] and rows[0] == [-1.0, -1.5]


def test_a_torn_line_is_asked_again(tmp_path):
  path = tmp_path / "j"
  first = journal.JournaledBackend(Paid(), path)
  first.score_options(["a", "bb"], ("1", "2"))
  whole = path.read_bytes()
  os.truncate(path, len(whole) - 3)
  backend = Paid()
  again = journal.JournaledBackend(backend, path)
  again.score_options(["a", "bb"], ("1", "2"))
  assert backend.asked == ["bb"]
  assert path.read_bytes() == whole


def test_a_prompt_that_is_asked_twice_has_two_answers(tmp_path):
  backend = Paid()
  noted = journal.JournaledBackend(backend, tmp_path / "j")
  first, _ = noted.complete(["a", "a", "b"], **SETTINGS)
  assert len(set(first)) == 3 and len(backend.asked) == 3
  again, usage = noted.complete(["a", "b", "a"], **SETTINGS)
  assert again == [first[0], first[2], first[1]]
  assert len(backend.asked) == 3 and usage.requests == 3
  noted.complete(["a"], **{**SETTINGS, "seed": 1})
  assert len(backend.asked) == 4


def test_failed_answers_are_not_kept(tmp_path):
  backend = Paid()
  noted = journal.JournaledBackend(backend, tmp_path / "j")
  noted.score_options(["broken", "a"], ("1", "2"))
  noted.score_options(["broken", "a"], ("1", "2"))
  assert backend.asked == ["broken", "a", "broken"]


def test_committed_outputs_are_deleted_or_free(tmp_path):
  path = tmp_path / "j"
  noted = journal.JournaledBackend(Paid(), path)
  noted.score_options(["a", "bb"], ("1", "2"))
  noted.commit(complete=False)
  backend = Paid()
  again = journal.JournaledBackend(backend, path)
  _, usage = again.score_options(["a", "bb"], ("1", "2"))
  assert not backend.asked and usage == records.Usage()
  again.commit(complete=True)
  assert path.read_bytes() == b""
  again.score_options(["a"], ("1", "2"))
  assert backend.asked == ["a"] and path.stat().st_size > 0
  assert again.prefix_options(("1", "2")) == (-1, -1)


def test_another_model_is_asked_for_its_own(tmp_path):
  for name in ("endpoint:host/a", "endpoint:host/b"):
    paid = Paid()
    paid.name = name
    wrapped = journal.JournaledBackend(paid, tmp_path / "j")
    wrapped.score_options(["x", "y"], ("1", "2"))
    assert paid.asked == ["x", "y"]


class Flaky(Paid):
  """Fails once, is billed for it, and answers then."""

  def _each(self, prompts, answer):
    for number in range(len(prompts)):
      self.on_output(number, None, ONE)
    rows, usage = super()._each(prompts, answer)
    return rows, usage + usage


def test_a_failed_attempt_is_counted_once_even_after_a_kill(tmp_path):
  path = tmp_path / "j"
  both = records.Usage(input_tokens=14, requests=2)
  first = journal.JournaledBackend(Flaky(), path)
  assert first.score_options(["a"], ("1", "2"))[1] == both == first.pending()
  again = journal.JournaledBackend(Paid(), path)
  assert again.pending() == both
  assert again.score_options(["a"], ("1", "2"))[1] == both
  again.commit(complete=False)
  assert again.pending() == records.Usage()
  third = journal.JournaledBackend(Paid(), path)
  assert third.pending() == records.Usage()
  assert third.score_options(["a"], ("1", "2"))[1] == records.Usage()
  # The attempt failed and the run ended: no output, but a usage.
  killed = Flaky(fail_at=0)
  with pytest.raises(KeyboardInterrupt):
    journal.JournaledBackend(killed, tmp_path / "k").score_options(
      ["a"], ("1",)
    )
  resumed = journal.JournaledBackend(Paid(), tmp_path / "k")
  assert resumed.score_options(["a"], ("1",))[1] == both
  resumed.commit(complete=True)
  assert resumed.pending() == records.Usage()


@pytest.mark.parametrize(
  "line, message",
  [
    (b"[]", "expected an object"),
    (b'{"key": "a"}', "'usage' is missing"),
    (b'{"key": "a", "usage": {}, "output": [1, "x"]}', "output is"),
    (b'{"key": "a", "usage": {"requests": "1"}, "output": ""}', "requests is"),
    (b"[" * 99_999, "nested too deeply"),
  ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
  path = tmp_path / "journal.jsonl"
  path.write_bytes(b'{"accounted": true}\n' + line + b"\n")
  with pytest.raises(ValueError, match=f"journal.jsonl:2: .*{message}"):
    journal.JournaledBackend(Paid(), path)


def test_a_log_prob_that_is_not_finite_comes_back_as_nan(tmp_path):
  class Infinite(Paid):
    def score_options(self, prompts, options):
      return self._each(prompts, lambda p: [float("-inf"), -1.5])

  path = tmp_path / "journal.jsonl"
  first = journal.JournaledBackend(Infinite(), path)
  first.score_options(["p"], ["1", "2"])
  again = journal.JournaledBackend(Paid(fail_at=0), path)
  ((low, high),), _ = again.score_options(["p"], ["1", "2"])
  assert low != low and high == -1.5
