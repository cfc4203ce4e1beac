# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.labeling.response_parsing."""

from __future__ import annotations

import email.utils
import json
import math
import re

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import response_parsing

SCORES = ("1", "2", "10")


def at(token, **listed):
  """A position; _1 stands for " 1"."""
  table = {name.replace("_", " "): p for name, p in listed.items()}
  return response_parsing.Position(token, table[token], tuple(table.items()))


def read(*found, options=SCORES):
  """The probabilities of the options, and how many are bounds."""
  row, missing = response_parsing.option_log_probs(found, options)
  return [math.exp(value) for value in row], missing


def test_ten_as_one_token_is_not_one():
  found, missing = read(at("10", **{"10": 0.5, "1": 0.3, "2": 0.1, "100": 0.1}))
  assert found == pytest.approx([0.3, 0.1, 0.5]) and missing == 0


def test_white_space_around_an_option_adds_up():
  table = {"1": 0.3, "_1": 0.2, "1\n": 0.05, "2": 0.1, "10": 0.02, "_10": 0.01}
  found, missing = read(at("1", **table, **{"1.": 0.2, "one": 0.1}))
  assert found == pytest.approx([0.55, 0.1, 0.03]) and missing == 0


def test_ten_as_two_tokens_takes_its_mass_from_one():
  first = at("1", **{"1": 0.6, "2": 0.3})
  second = at("0", **{"0": 0.75, "\n": 0.2, "5": 0.04})
  found, missing = read(first, second)
  assert found == pytest.approx([0.6 * 0.25, 0.3, 0.6 * 0.75])
  assert missing == 0
  # A line that ends after "1" is "1" all the same, and does not count twice.
  ended = at("\n", **{"0": 0.75, "\n": 0.2, "5": 0.04})
  assert read(first, ended) == (pytest.approx(found), 0)


def test_one_token_and_two_tokens_add_up_to_ten():
  found, _ = read(
    at("1", **{"1": 0.6, "10": 0.1, "2": 0.3}), at("0", **{"0": 0.5, ".": 0.5})
  )
  assert found == pytest.approx([0.3, 0.3, 0.4])


def test_a_leading_blank_token_leads_to_the_next_position():
  found, missing = read(
    at(" ", **{"_": 0.8, "2": 0.1, "10": 0.1}),
    at("1", **{"1": 0.5, "2": 0.25, "x": 0.25}),
  )
  assert found == pytest.approx([0.4, 0.1 + 0.2, 0.1]) and missing == 0


def test_what_was_not_written_is_not_followed():
  """The second position has continuations of "2", none of "1"."""
  found, missing = read(
    at("2", **{"1": 0.3, "2": 0.6, "x": 0.02}),
    at("0", **{"0": 0.9, ".": 0.1}),
  )
  assert found == pytest.approx([0.3, 0.6, 0.02]) and missing == 1


def test_an_option_that_is_not_listed_has_at_most_the_least_or_the_rest():
  least, missing = read(at("1", **{"1": 0.6, "2": 0.2, "x": 0.05}))
  assert least == pytest.approx([0.6, 0.2, 0.05]) and missing == 1
  rest, missing = read(at("1", **{"1": 0.6, "2": 0.2, "x": 0.19}))
  assert rest == pytest.approx([0.6, 0.2, 0.01]) and missing == 1
  none, missing = read(at("1", **{"1": 0.75, "2": 0.25}))
  assert none == pytest.approx([0.75, 0.25, 1e-12]) and missing == 1
  # Ten may be one token, or two.
  both, missing = read(
    at("1", **{"1": 0.6, "2": 0.3, "x": 0.05}), at(".", **{".": 0.9, "!": 0.05})
  )
  assert both == pytest.approx([0.6, 0.3, 0.05 + 0.6 * 0.05]) and missing == 1


def test_the_written_token_counts_where_the_list_lacks_it():
  position = response_parsing.Position("1", 0.2, (("2", 0.5), ("x", 0.25)))
  found, missing = read(position)
  assert found == pytest.approx([0.2, 0.5, 0.05]) and missing == 1


def test_never_zero_and_never_above_one():
  found, missing = read(at("1", **{"1": 1.0, "_1": 0.005, "2": 0.0}))
  assert found == pytest.approx([1.0, 1e-12, 1e-12]) and missing == 2
  # All of "1" continues to "10": it was listed, so it is not a bound.
  found, missing = read(
    at("1", **{"1": 0.9, "2": 0.1}), at("0", **{"0": 1.0, ".": 0.0})
  )
  assert found == pytest.approx([1e-12, 0.1, 0.9]) and missing == 0


CHAT = {
  "content": [
    {
      "token": "1",
      "logprob": -0.5,
      "top_logprobs": [
        {"token": "1", "logprob": -0.5},
        {"token": "2", "logprob": -1.0},
      ],
    }
  ]
}
COMPLETIONS = {
  "tokens": ["1"],
  "token_logprobs": [-0.5],
  "top_logprobs": [{"1": -0.5, "2": -1.0}],
}


def parse_scores(choice, max_tokens=2):
  return response_parsing.parse_scores(
    choice, ("1", "2"), max_tokens=max_tokens
  )


@pytest.mark.parametrize("log_probs", [CHAT, COMPLETIONS])
def test_both_layouts_say_the_same(log_probs):
  outcome = parse_scores({"logprobs": log_probs})
  assert outcome.value == pytest.approx([-0.5, -1.0])
  assert outcome.usage == records.Usage(requests=1) and not outcome.error


@pytest.mark.parametrize(
  "log_probs",
  [None, {}, {"content": []}, {"content": None}, {"tokens": [], "x": 1}]
  + [{"content": [{"token": "1", "logprob": -1.0, "top_logprobs": []}]}],
)
def test_replies_without_log_probs_are_bare(log_probs):
  outcome = parse_scores({"logprobs": log_probs})
  assert outcome.kind == "no_logprobs" and 'judgment="text"' in outcome.error


def test_an_answer_that_is_no_option_is_no_answer():
  def scores(token):
    top = [{"token": token, "logprob": -0.1}]
    item = {"token": token, "logprob": -0.1, "top_logprobs": top}
    return parse_scores({"logprobs": {"content": [item]}})

  outcome = scores("Summary")
  assert outcome.value is None and outcome.kind == "bad_request"
  assert "begins with 'Summary'" in outcome.error
  assert "answer_tokens" not in outcome.error
  assert "answer_tokens" in scores(" ").error


LIMITS = costs.RequestLimits(prompt="p" * 7, max_tokens=9, count_tokens=len)


def parse(body, usage=None, **fields):
  if isinstance(body, dict) and usage is not None:
    body = {**body, "usage": usage}
  data = body if isinstance(body, bytes) else json.dumps(body).encode()
  read_text = lambda choice: response_parsing.parse_text(
    choice, chat=False, stop="", max_tokens=9
  )
  return response_parsing.parse(data, read_text, LIMITS)


SAID = {"choices": [{"text": "a"}, {"text": "b"}]}


def test_the_first_choice_counts_and_a_body_twice_is_one():
  assert parse(SAID).value == "a"
  data = json.dumps(SAID).encode()
  assert parse(data + b"\n" + data).value == "a"
  assert parse(data + b"{}").error == "the response is not JSON"


@pytest.mark.parametrize(
  "body, fault",
  [
    (b"", "not JSON"),
    (b'{"choices": [{"te', "not JSON"),
    (b"\xff{}", "UnicodeDecodeError"),
    ([], "unknown format"),
    ({"choices": []}, "without choices"),
    ({"error": {"message": "busy"}}, "without choices: .*busy"),
    ({"choices": [{}]}, "KeyError"),
    ({"choices": ["a"]}, "TypeError"),
    ({"choices": [{"text": 3}]}, "TypeError"),
  ],
)
def test_other_forms_are_faults_that_may_pass(body, fault):
  outcome = parse(body)
  assert re.search(fault, outcome.error)
  assert outcome.kind == "transient" and outcome.value is None


NAN = {"token": "1", "logprob": math.nan, "top_logprobs": []}


@pytest.mark.parametrize(
  "body, fault",
  [
    (b'{"choices": ' + b"[" * 100_000, "RecursionError"),
    (b'{"choices": [' + b"9" * 5000 + b"]}", "ValueError"),
    (json.dumps({"choices": [{"logprobs": {"content": [NAN]}}]}), "ValueError"),
    (
      json.dumps({"choices": [{"logprobs": {"content": [NAN]}}]}).replace(
        "NaN", "-1" + "0" * 400
      ),
      "OverflowError",
    ),
  ],
)
def test_hostile_numbers_and_depths_fail_the_prompt_at_once(body, fault):
  data = body if isinstance(body, bytes) else body.encode()
  outcome = response_parsing.parse(data, parse_scores, LIMITS)
  assert fault in outcome.error and outcome.kind == "bad_request"
  # It is paid for all the same.
  assert outcome.usage.estimated == 1 and outcome.usage.input_tokens == 7


def test_positions_beyond_the_limit_are_ignored():
  first, second = (
    {"token": t, "logprob": -1.0, "top_logprobs": [{"token": t, "logprob": 0}]}
    for t in (" ", "1")
  )
  choice = {"logprobs": {"content": [first, second]}}
  assert parse_scores(choice).value is not None
  assert parse_scores(choice, max_tokens=1).kind == "bad_request"


def test_tokens_are_paid_for_with_and_without_an_answer():
  counts = {"prompt_tokens": 7, "completion_tokens": 2}
  details = {"prompt_tokens_details": {"cached_tokens": 5}}
  paid = records.Usage(input_tokens=7, output_tokens=2, cached_input_tokens=5)
  answered = paid + records.Usage(requests=1)
  assert parse(SAID, {**counts, **details}).usage == answered
  assert parse({"choices": []}, {**counts, **details}).usage == paid
  other = {**counts, "prompt_tokens_details": None}
  assert parse(SAID, other).usage.cached_input_tokens == 0


def parse_text(choice, stop=""):
  return response_parsing.parse_text(choice, chat=True, stop=stop, max_tokens=9)


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_an_empty_text_is_no_answer(value):
  choice = {"message": {"content": value}, "finish_reason": "length"}
  outcome = parse_text(choice)
  assert outcome.kind == "bad_request" and "'length'" in outcome.error
  stopped = {"message": {"content": "END 1"}}
  assert parse_text(stopped, stop="END").kind == "bad_request"
  assert parse_text(stopped, stop="1").value == "END "


@pytest.mark.parametrize(
  "value, fault",
  [("x" * (128 * 9 + 1), "1153 characters for 9 tokens"), ("\ud800", "half")],
)
def test_a_text_that_is_too_long_or_no_unicode_is_no_answer(value, fault):
  outcome = parse_text({"message": {"content": value}})
  assert outcome.kind == "bad_request" and fault in outcome.error
  assert outcome.value is None and outcome.usage.requests == 1
  assert parse_text({"message": {"content": "x" * 128 * 9}}).value


def status(code, said="", headers=(), now=0.0):
  return response_parsing.parse_status(
    code, said, dict(headers), now=now, key_variable="MY_KEY"
  )


def test_statuses_that_pass_that_stay_and_that_are_a_prompts_own():
  for code in (408, 409, 429, 500, 502, 503, 504, 529):
    assert status(code).kind == "transient", code
  for code in (400, 401, 402, 403, 404, 405, 422):
    assert status(code).kind == "permanent", code
  assert status(429, "You exceeded: insufficient_quota").kind == "permanent"
  for said in (
    "This model's maximum context length is 4096 tokens",
    "the request exceeds the available context size",
    "blocked content_filter",
  ):
    assert status(400, said).kind == "bad_request", said
  assert "MY_KEY" in status(401).error and "MY_KEY" in status(403).error
  assert "base_url" in status(404, "no such model").error
  assert "no such model" in status(404, "no such model").error


def test_a_log_prob_above_zero_is_another_form():
  for value in (0.5, math.nan, "x", None):
    item = {"token": "1", "logprob": value, "top_logprobs": []}
    with pytest.raises((ValueError, TypeError)):
      response_parsing.parse_positions({"content": [item]})


def test_retry_after_in_seconds_milliseconds_and_as_a_date():
  def wait(**headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return response_parsing.parse_wait(names, now=1_700_000_000.0)

  assert wait(retry_after="7") == 7.0
  assert wait(retry_after="7", retry_after_ms="250") == 0.25
  date = email.utils.formatdate(1_700_000_003, usegmt=True)
  assert wait(retry_after=date) == pytest.approx(3.0)
  past = email.utils.formatdate(1_600_000_000, usegmt=True)
  assert wait(retry_after=past) == 0.0 and wait(retry_after="-3") == 0.0
  assert wait() is None and wait(retry_after="soon") is None
  assert wait(retry_after="nan") is None
