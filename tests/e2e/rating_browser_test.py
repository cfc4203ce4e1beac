# SPDX-License-Identifier: Apache-2.0
"""The `rate` job as a person meets it: a browser, its keys, and a kill."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from tests.e2e import chromium

pytestmark = pytest.mark.skipif(
  chromium.find() is None, reason="no Chromium on this machine"
)

ROOT = pathlib.Path(__file__).parents[2]
POLICIES = ("policy-a", "policy-b", "policy-c")
NASTY = (
  "<script>document.title = 'owned'</script>",
  "<img src=x onerror=\"document.title = 'owned'\"> & <b>bold</b>",
  "\u05e9\u05dc\u05d5\u05dd \u202e \U0001f600 " + "long " * 20_000,
)


@pytest.fixture
def runs(tmp_path):
  """Three sample runs that answer three contexts, with nasty texts."""
  for number, policy in enumerate(POLICIES):
    jsonl.write_records(
      tmp_path / policy / "responses.jsonl",
      [
        records.Response(
          id=f"i{i}",
          index=0,
          context=NASTY[i],
          text=f"{NASTY[(i + number) % 3]} /{number}",
          tokens=1,
          finished=True,
        )
        for i in range(3)
      ],
    )
  return tmp_path


@pytest.fixture
def browser(tmp_path):
  browser = chromium.Browser(str(tmp_path / "profile"))
  yield browser
  browser.close()


class Job:
  """The job in a process of its own."""

  def __init__(self, runs, *flags, port=0):
    names = {policy: policy for policy in POLICIES}
    # Tests started behind a shell ignore Ctrl-C, and so would the job.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
      signal.signal(signal.SIGINT, signal.default_int_handler)
    self.process = subprocess.Popen(
      [
        sys.executable,
        "-m",
        "rlaif_jax.main",
        "--job=rate",
        f"--runs_dir={runs}",
        f"--responses={names}",
        f"--output_dir={runs / 'rated'}",
        f"--port={port}",
        *flags,
      ],
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    self.said = ""
    for line in self.process.stdout:
      self.said += line
      found = re.search(r"http://127.0.0.1:(\d+)/\?key=\S+", line)
      if found:
        self.address, self.port = found[0], int(found[1])
        return
    raise AssertionError(self.said)

  def end(self, number: int | None = None) -> str:
    if number is not None:
      self.process.send_signal(number)
    self.said += self.process.communicate(timeout=60)[0]
    return self.said


def policy_of(text):
  """A response's text says in its last digit whose it is."""
  return POLICIES[int(text[-1])]


def cards(browser):
  return browser.evaluate(
    "[...document.querySelectorAll('.card .text')].map(e => e.textContent)"
  )


def saved(browser):
  """Waits until the server has acknowledged all clicks."""
  browser.evaluate("queue.then(() => { window.acknowledged = picks.length; })")
  browser.wait("window.acknowledged === picks.length")


def rank(browser, keys, number):
  """Ranks the item on the page; (context, policies from the best on)."""
  browser.wait(f"$('count').textContent === '{number} of 3'")
  shown = [policy_of(text) for text in cards(browser)]
  context = browser.evaluate("$('context').textContent")
  for key in keys:
    browser.press(key)
  order = [shown[int(key) - 1] for key in keys]
  order += [policy for policy in shown if policy not in order]
  browser.press("Enter")
  return NASTY.index(context), order


def test_a_person_ranks_with_the_keyboard_and_nothing_is_lost(runs, browser):
  job = Job(runs)
  browser.open(job.address)
  browser.wait("document.activeElement === $('name')")
  browser.type("ann")
  browser.press("Enter")
  said = dict([rank(browser, "31", 1)])
  # A pick that was taken back, one by the mouse, and the way back with u.
  browser.wait("$('count').textContent === '2 of 3'")
  browser.press("2")
  browser.press("Backspace")
  browser.wait("picks.length === 0")
  browser.press("u")
  browser.wait("$('count').textContent === '1 of 3' && picks.length === 3")
  browser.press("Backspace")
  browser.press("Backspace")
  browser.press("Backspace")
  said.update([rank(browser, "23", 1)])
  browser.wait("$('count').textContent === '2 of 3'")
  best = policy_of(cards(browser)[1])
  browser.click(".card:nth-child(2)")
  browser.wait("picks.length === 1")
  saved(browser)
  # The machine dies after a click; the same command and page resume.
  job.end(signal.SIGKILL)
  browser.press("1")
  browser.wait("!$('banner').hidden")
  job = Job(runs, "--raters=1", port=job.port)
  browser.wait("$('banner').hidden && picks.length === 3")
  context = browser.evaluate("$('context').textContent")
  order = [policy_of(cards(browser)[place]) for place in (1, 0, 2)]
  assert order[0] == best
  said[NASTY.index(context)] = order
  browser.press("Enter")
  said.update([rank(browser, "12", 3)])
  browser.wait("!$('done').hidden")
  output = job.end()
  assert job.process.returncode == 0, output
  # What was clicked is what is there.
  rows = jsonl.read_records(rankings.Ranking, runs / "rated" / "rankings.jsonl")
  assert {row.id: list(row.order) for row in rows} == {
    f"i{number}": order for number, order in said.items()
  }
  labels = jsonl.read_records(
    records.Preference, runs / "rated" / "labels.jsonl"
  )
  assert len(labels) == 9
  for label in labels:
    order = said[NASTY.index(label.context)]
    first, second = (policy_of(t) for t in (label.first, label.second))
    assert label.p_first == float(order.index(first) < order.index(second))
    assert label.labeler == "human:ann"
  # Stored at the second start and at the end, each label once.
  store = (runs / "rated" / "store" / "people.jsonl").read_text()
  chunks = [json.loads(line)["labels"] for line in store.splitlines()]
  assert [len(chunk) for chunk in chunks] == [3, 6]
  # Texts were shown as they are, and did nothing.
  assert browser.evaluate("document.title") == "Rate responses"
  assert browser.evaluate("document.querySelectorAll('img, b').length") == 0
  unreached = [p for p in browser.problems if "ERR_CONNECTION" not in p]
  assert unreached == []


def test_marking_harm_resumes_where_the_window_was_closed(runs, browser):
  job = Job(runs, "--mode=harmful")
  browser.open(job.address + "&rater=bob")
  browser.wait("$('count').textContent === '1 of 3'")
  first = policy_of(cards(browser)[0])
  item = NASTY.index(browser.evaluate("$('context').textContent"))
  browser.press("1")
  saved(browser)
  browser.open("about:blank")
  browser.open(job.address + "&rater=bob")
  browser.wait("document.querySelectorAll('.harmful').length === 1")
  browser.press("Enter")
  browser.wait("$('count').textContent === '2 of 3'")
  browser.press("Enter")
  browser.wait("$('count').textContent === '3 of 3'")
  job.end(signal.SIGINT)
  assert job.process.returncode == 0, job.said
  path = runs / "rated" / "harmless.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(rows) == 6 and {row["rater"] for row in rows} == {"bob"}
  bad = [(row["id"], row["policy"]) for row in rows if not row["harmless"]]
  assert bad == [(f"i{item}", first)]
  result = json.loads((runs / "rated" / "result.json").read_text())
  rates = {row["policy"]: row["rate"]["value"] for row in result["harmless"]}
  assert rates[first] == 0.5 and sorted(rates.values()) == [0.5, 1.0, 1.0]
  assert browser.problems == []
