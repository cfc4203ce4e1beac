# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.labeling.endpoint, at a server that misbehaves."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import sys
import time
import traceback
from concurrent import futures

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import endpoint
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import journal
from rlaif_jax.labeling import pointwise_judge
from tests.labeling import faulty_server as fs

KEY = "sk-canary-0123456789"
OPTIONS = ("1", "2")
PROMPTS = ["a", "b", "c"]
SAMPLED = dict(max_tokens=9, temperature=0.7, top_k=0, seed=0, stop="")
GREEDY = {**SAMPLED, "temperature": 0.0}
# For slow answers; long enough for a busy machine.
QUICK = dict(timeout_seconds=0.5, slow_seconds=0.8, max_retries=1)


def expected(prompt):
  """Log-probs of the options by the server's own table."""
  table = fs.hashed_answer(prompt).probabilities[0]
  one = table["1"] + table[" 1"]
  return pytest.approx([math.log(one), math.log(table["2"])], abs=1e-12)


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("fault", fs.FAULTS)
def test_each_fault_alone_passes(fault, api):
  quick = QUICK if fault == "slow" else {}
  with fs.serving(fs.once(fault, "b"), api=api, **quick) as (server, backend):
    rows, usage = backend.score_options(PROMPTS, OPTIONS)
  assert rows == [expected(prompt) for prompt in PROMPTS]
  harmless = fault in fs.HARMLESS
  assert usage.retries == (not harmless) and usage.requests == 3
  assert server.received == {"a": 1, "b": 2 - harmless, "c": 1}
  assert set(server.served.values()) == {1}
  assert server.faults == {fault: 1}


@pytest.mark.parametrize("fault", sorted(set(fs.FAULTS) - set(fs.HARMLESS)))
def test_a_prompt_that_fails_to_the_end_is_set_aside(fault, caplog):
  heard, reason = [], fs.FAULTS[fault]
  quick = QUICK if fault == "slow" else {}
  retries = quick.get("max_retries", 2)
  with fs.serving(fs.always(fault, "b"), **quick) as (server, backend):
    backend.score_options(["a"], OPTIONS)  # It does give log-probs.
    backend.on_output = lambda *answer: heard.append(answer)
    rows, usage = backend.score_options(PROMPTS, OPTIONS)
    heard = [answer for answer in heard if answer[1] is not None]
    assert rows[::2] == [expected("a"), expected("c")]
    assert all(math.isnan(value) for value in rows[1])
    assert usage.requests == 2 and usage.retries == retries
    assert server.received["b"] == 1 + retries
    assert sorted(heard[0][:1] + heard[1][:1]) == [0, 2] and len(heard) == 2
    (line,) = [line for line in caplog.messages if "prompts failed" in line]
    assert (
      "1 of 3 prompts" in line and reason in line and "endpoint:127" in line
    )
    with pytest.raises(ConnectionError, match=reason) as error:
      backend.score_options(["b", "b"], OPTIONS)
    assert "base_url" in str(error.value)
    if fault != "bare":
      texts, _ = backend.complete(PROMPTS, **GREEDY)
      assert texts[1] == "" and all(texts[::2])


def test_ten_percent_faults_leave_the_labels_as_they_were():
  count = 2000
  with fs.FaultyServer() as server:
    labels, usage, _ = fs.label(server, count, orders="first")
  plan = fs.random_plan(0.1)
  with fs.FaultyServer(plan=plan, slow_seconds=1.5) as faulty:
    again, more, quarantine = fs.label(faulty, count, orders="first")
  assert again == labels and not quarantine.rows
  assert [label.id for label in again] == [p.id for p in fs.make_pairs(count)]
  assert len({label.p_first for label in again}) == count
  assert set(faulty.faults) == set(fs.FAULTS)
  assert more.requests == usage.requests == count
  assert count * 1.05 < faulty.received.total() <= count + more.retries
  # Nothing sound was asked for again, except what a busy machine sent late.
  harmful = [n for f, n in faulty.faults.items() if f not in fs.HARMLESS]
  assert faulty.served.total() <= count + more.retries - sum(harmful)


@pytest.mark.parametrize(
  "headers, least, most",
  [
    ({"retry-after-ms": "150"}, 0.15, 2.0),
    ({"retry-after": "0.15"}, 0.15, 2.0),
    ({"retry-after": "3600"}, 0.4, 2.0),  # capped
    ({"retry-after": email.utils.formatdate(4e9, usegmt=True)}, 0.4, 2.0),
    ({"x": "y"}, 0.0, 0.35),
  ],
)
def test_retry_after_is_honoured_up_to_a_bound(headers, least, most):
  wait = dict(wait_headers=headers, max_backoff_seconds=0.4)
  with fs.serving(fs.once("429 wait", "a"), **wait) as (server, backend):
    backend.score_options(["a"], OPTIONS)
  first, second = server.times["a"]
  assert least <= second - first < most


def test_waits_grow_at_random_up_to_a_bound():
  bounds = dict(first_backoff_seconds=1.0, max_backoff_seconds=10.0)
  with fs.serving(**bounds) as (_, backend):
    prompts = [str(i) for i in range(300)]
    for attempt, bound in [(0, 1.0), (1, 2.0), (3, 8.0), (9, 10.0)]:
      waits = [backend._backoff(prompt, attempt, None) for prompt in prompts]
      assert 0 <= min(waits) < 0.1 * bound and 0.9 * bound < max(waits) <= bound
      assert sum(waits) / 300 == pytest.approx(bound / 2, rel=0.15)


def test_no_more_than_the_bound_at_once_and_in_order():
  # Every third prompt takes long, so that answers come out of order.
  plan = lambda prompt, attempt: "slow" if int(prompt) % 3 == 0 else ""
  prompts = [str(i) for i in range(40)]
  done, rows = [], []
  with fs.serving(
    plan,
    seconds=0.005,
    slow_seconds=0.05,
    max_concurrency=5,
    progress=lambda *counts: done.append(counts),
  ) as (server, backend):
    backend.on_output = lambda row, answer, usage: rows.append(row)
    answers, _ = backend.score_options(prompts, OPTIONS)
  assert server.most_in_flight == 5 and server.connections == 5
  assert answers == [expected(prompt) for prompt in prompts]
  assert sorted(rows) == list(range(40)) != rows
  assert done == [(i + 1, 40) for i in range(40)]


@pytest.mark.parametrize(
  "fault, advice",
  [
    ("400", "top_logprobs"),
    ("401", "set the environment variable MY_KEY"),
    ("403", "the key in MY_KEY"),
    ("404", "check base_url"),
    ("429 insufficient_quota", "no credit"),
  ],
)
def test_errors_that_stay_stop_at_once_and_say_what_to_do(fault, advice):
  prompts = [str(i) for i in range(30)]
  with fs.serving(
    fs.always(fault, *prompts), max_concurrency=3, api_key_variable="MY_KEY"
  ) as (server, backend):
    with pytest.raises(ValueError, match=advice) as error:
      backend.score_options(prompts, OPTIONS)
    assert f"endpoint:127.0.0.1:{server.port}/m" in str(error.value)
    assert f"told to say {fault}" in str(error.value)
  assert server.received.total() <= 3


def test_what_is_under_way_at_a_refusal_is_kept_and_nothing_waits_for_it():
  plan = {"bad": "401", "slow": "slow", "busy": "429 wait"}
  heard = []
  with fs.serving(
    lambda prompt, attempt: plan.get(prompt, ""),
    seconds=0.02,
    slow_seconds=0.15,
    wait_headers={"retry-after": "30"},
    max_backoff_seconds=30.0,
    max_concurrency=3,
  ) as (server, backend):
    backend.on_output = lambda row, *answer: heard.append(row)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="401"):
      backend.score_options(["busy", "slow", "bad", "late"], OPTIONS)
    assert time.monotonic() - begin < 10.0
  assert heard == [1] and server.received["late"] == 0


def test_a_prompt_that_is_refused_for_its_own_sake_stops_nothing(caplog):
  fault = "400 context_length_exceeded"
  with fs.serving(fs.always(fault, "b")) as (server, backend):
    rows, usage = backend.score_options(PROMPTS, OPTIONS)
    assert math.isnan(rows[1][0]) and rows[2] == expected("c")
    assert server.received["b"] == 1 and usage.retries == 0
    assert "context_length_exceeded" in caplog.text
    # The endpoint is not dead, even where it is the only prompt.
    rows, _ = backend.score_options(["b"], OPTIONS)
    assert math.isnan(rows[0][0])


def test_no_log_probs_at_all_names_the_way_out():
  with fs.serving(lambda *_: "bare", max_retries=9) as (server, backend):
    backend.complete(["a"], **GREEDY)  # A text is no sign of log-probs.
    with pytest.raises(ValueError, match='judgment="text"'):
      backend.score_options(["a"], OPTIONS)
    assert server.received["a"] == 1 + 3


def test_an_answer_without_any_option_is_no_label(caplog):
  answer = lambda prompt: fs.one_token(
    **({"Sure": 1.0} if prompt == "b" else {"1": 0.7, "2": 0.3})
  )
  with fs.serving(answer=answer) as (server, backend):
    rows, usage = backend.score_options(PROMPTS, OPTIONS)
  assert math.isnan(rows[1][0]) and rows[0] == rows[2]
  assert usage.requests == 3 and usage.missing_options == 0
  assert "begins with 'Sure'" in caplog.text and server.received["b"] == 1


def test_ratings_of_ten_in_one_token_in_two_and_unlisted():
  first = {"1": 0.6, "9": 0.3, "x": 0.1}

  def answer(prompt):
    if "one token" in prompt:
      return fs.one_token(_10=0.5, **{"10": 0.25, "1": 0.25})
    if "two tokens" in prompt:
      return fs.Answer(["1", "0"], [first, {"0": 0.5, "\n": 0.5}])
    return fs.Answer(["9", "."], [{"9": 0.9, "1": 0.1}, {".": 1.0}])

  examples = [
    records.Example(id=str(i), context=text, response="r")
    for i, text in enumerate(["one token", "two tokens", "unlisted"])
  ]
  for api in ("chat", "completions"):
    settings = dict(answer=answer, api=api, top_logprobs=3)
    with fs.serving(**settings) as (server, backend):
      ratings, usage = pointwise_judge.judge_responses(
        examples, backend, pointwise_judge.PointwiseJudgeConfig()
      )
      assert backend.prefix_options(["1", "10"]) == (-1, -1)
    one, two, unlisted = (r.probabilities for r in ratings)
    assert (one[0], one[9]) == pytest.approx((0.25, 0.75), abs=1e-9)
    assert two[0] == pytest.approx(two[9]) and two[8] == pytest.approx(two[0])
    assert unlisted[8] == pytest.approx(0.9) and unlisted[9] < 1e-9
    assert usage.missing_options == 8 + 7 + 8
    assert {body["max_tokens"] for body in server.asked} == {2}
  with fs.serving(answer=answer, answer_tokens=1) as (server, backend):
    backend.score_options(["two tokens"], ["1", "10"])
  assert server.asked[0]["max_tokens"] == 1


def test_what_is_sent_to_be_scored():
  with fs.serving(top_logprobs=7) as (server, backend):
    backend.score_options(["a"], OPTIONS)
  sent = {"messages": [{"role": "user", "content": "a"}], "model": "m"}
  sent |= {"max_tokens": 1, "temperature": 0.0}
  assert server.asked == [{**sent, "logprobs": True, "top_logprobs": 7}]
  with pytest.raises(ValueError, match="different, non-empty"):
    backend.score_options(["a"], ["1", " 1"])


@pytest.mark.parametrize("fault", ["401", "503", "garbled", "cut"])
def test_the_key_is_shown_nowhere(fault, caplog, monkeypatch):
  monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
  caplog.set_level(logging.DEBUG)
  plan = fs.always(fault, "b")
  with fs.serving(plan, api_key_variable="MY_KEY") as (_, backend):
    with pytest.raises((ValueError, ConnectionError)) as error:
      backend.score_options(["b"], OPTIONS)
    if fault != "401":
      assert backend.score_options(PROMPTS, OPTIONS)[0][0] == expected("a")
    shown = [backend.name, repr(backend), repr(backend._config), caplog.text]
  shown += traceback.format_exception(error.value) + [repr(error.value)]
  assert ("Bearer [key]" in "".join(shown)) == fault.isdigit()
  assert not any(KEY in text or KEY[10:] in text for text in shown)


def test_a_key_is_asked_for_and_never_echoed(monkeypatch):
  monkeypatch.delenv("MY_KEY", raising=False)
  config = endpoint_config.EndpointConfig(model="m", api_key_variable="MY_KEY")
  with pytest.raises(ValueError, match="MY_KEY holds no API key"):
    endpoint.EndpointBackend(config)
  monkeypatch.setenv("MY_KEY", f"{KEY}\u00e9")
  with pytest.raises(ValueError, match="MY_KEY holds no API key") as error:
    endpoint.EndpointBackend(config)
  assert KEY not in str(error.value)
  monkeypatch.setenv("MY_KEY", KEY)
  monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hidden@host:80/v1")
  backend = endpoint.EndpointBackend(config)
  backend.close()
  assert backend.name == "endpoint:host/m"


def test_texts_seeds_and_what_is_sent(caplog):
  words = fs.Answer([" I", " END", " x"], [{}] * 3)
  asked = {**SAMPLED, "stop": "END", "top_k": 40}
  with fs.serving(answer=lambda prompt: words) as (server, backend):
    backend.complete(["a"], **{**asked, "temperature": 0.0})
    assert "top_k" not in caplog.text and "seed" not in server.asked.pop()
    texts, usage = backend.complete(["a", "a", "b"], **asked)
    backend.complete(["a"], **{**asked, "seed": 1})
    backend.complete(["b", "a"], **asked)
  assert texts == [" I "] * 3 and usage.output_tokens == 9
  assert caplog.text.count("top_k=40 is not applied") == 1
  seeds = {}
  for row in server.asked:
    seeds.setdefault(row["messages"][0]["content"], []).append(row["seed"])
  assert len(set(seeds["a"])) == 3 and len(seeds["a"]) == 4
  assert len(set(seeds["b"])) == 1 and not set(seeds["a"]) & set(seeds["b"])
  sent = dict(model="m", max_tokens=9, temperature=0.7, stop=["END"])
  assert {**server.asked[0], **sent} == server.asked[0]
  assert set(server.asked[0]) == {*sent, "messages", "seed"}
  assert max(seeds["a"] + seeds["b"]) < 2**31
  with fs.serving(send_top_k=True, api="completions") as (server, backend):
    backend.complete(["a"], **{**asked, "stop": ""})
  assert server.asked[0]["top_k"] == 40 and server.asked[0]["prompt"] == "a"
  assert "stop" not in server.asked[0]


def test_what_a_server_does_not_take_is_not_sent():
  settings = {
    "token_limit": "max_completion_tokens",
    "leave_out": ("temperature", "seed"),
  }
  with fs.serving(**settings) as (server, backend):
    backend.complete(["a"], **SAMPLED)
    backend.score_options(["a"], OPTIONS)
  for row, limit in zip(server.asked, (9, 1), strict=True):
    assert row["max_completion_tokens"] == limit
    assert not {"max_tokens", "temperature", "seed"} & set(row)
  # It is another labeler, whose labels are not those of the first.
  assert "leave_out=('temperature', 'seed')" in backend.name


def test_usage_counts_what_was_billed(caplog):
  with fs.serving(fs.once("empty", "bb")) as (server, backend):
    heard = []
    backend.on_output = lambda *answer: heard.append(answer)
    _, usage = backend.score_options(["bb", "cccc"], OPTIONS)
  # "bb" was billed twice.
  billed = dict(input_tokens=8, output_tokens=3, cached_input_tokens=4)
  assert usage == records.Usage(**billed, requests=2, retries=1)
  assert sum((row[2] for row in heard), records.Usage()) == usage
  assert [row[1] for row in heard if row[0] == 0][0] is None
  assert "estimated" not in caplog.text


def test_calls_in_a_row_in_threads_and_in_a_running_loop_share_a_bound():
  with fs.serving(max_concurrency=2, seconds=0.002) as (server, backend):
    rows = []
    ask = lambda *_: rows.extend(backend.score_options(PROMPTS, OPTIONS)[0])
    with futures.ThreadPoolExecutor(5) as pool:
      list(pool.map(ask, range(10)))

    async def inside():
      ask()

    asyncio.run(inside())
    assert backend.score_options([], OPTIONS) == ([], records.Usage())
  assert len(rows) == 33 and rows[:3] == [expected(p) for p in PROMPTS]
  assert server.most_in_flight == 2 and server.connections <= 2


def test_a_journal_asks_only_for_what_failed(tmp_path):
  plan = lambda prompt, attempt: "503" if prompt == "b" and attempt < 3 else ""
  with fs.serving(plan) as (server, backend):
    kept = journal.JournaledBackend(backend, tmp_path / "j")
    rows, _ = kept.score_options(PROMPTS, OPTIONS)
    assert math.isnan(rows[1][0])
    rows, usage = kept.score_options(PROMPTS, OPTIONS)
  assert rows == [expected(prompt) for prompt in PROMPTS]
  assert server.received == {"a": 1, "b": 4, "c": 1} and usage.requests == 3


def test_an_error_of_the_listener_is_not_lost():
  def full(*answer):
    raise OSError("disk full")

  with fs.serving() as (_, backend):
    backend.on_output = full
    with pytest.raises(OSError, match="disk full"):
      backend.score_options(PROMPTS, OPTIONS)
    backend.on_output = None
    assert backend.score_options(["a"], OPTIONS)[0] == [expected("a")]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
  for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
  with fs.serving(max_retries=0) as (_, backend):
    assert backend.score_options(["a"], OPTIONS)[0] == [expected("a")]


def test_without_the_client_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "openai", None)
  config = endpoint_config.EndpointConfig(
    model="m", base_url="http://localhost/v1"
  )
  with pytest.raises(ImportError, match=r"pip install 'rlaif_jax\[endpoint\]'"):
    endpoint.EndpointBackend(config)
