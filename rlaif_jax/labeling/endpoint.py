# SPDX-License-Identifier: Apache-2.0
"""A labeler behind an OpenAI-compatible endpoint.

Owns how it is asked: side by side up to a bound, again after faults that
pass, and never again for what it has answered. The API is that of
https://platform.openai.com/docs/api-reference; vLLM, SGLang and llama.cpp
serve it too. What replies say is `labeling.response_parsing`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging as std_logging
import math
import random
import threading
import time
import urllib.parse
from typing import Any, Callable, Coroutine, Sequence

from absl import logging

from rlaif_jax.core import records
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import response_parsing

# How often in a row a prompt's replies may lack log-probs by some fault.
_BARE_REPLIES = 3


class _Call:
  """The prompts of one call with their settings, and what became of them."""

  def __init__(
    self,
    asks: Sequence[tuple[str, dict[str, Any]]],
    read: Callable[[Any], response_parsing.Outcome],
  ):
    self.asks = asks
    self.read = read
    self.outcomes = [response_parsing.Outcome() for _ in asks]
    self.done = 0
    self.refusal = ""
    self.refused = asyncio.Event()

  def refuse(self, why: str) -> None:
    self.refusal = self.refusal or why
    self.refused.set()


class EndpointBackend:
  """A `protocols.Backend` over an endpoint.

  A prompt without an answer after all retries, or that the endpoint refuses
  for its own sake (too long, filtered), gets NaN or "" where the others get
  theirs, which the judges set aside. `on_answer`, where set, is called with
  (number of the prompt, answer, usage) as each answer arrives.

  Args:
    config: which endpoint, and how it is asked.
    progress: called with (prompts done, prompts in all) after each prompt.

  Raises:
    ImportError: the client is not installed.
    ValueError: no key in the environment, where the endpoint needs one.
  """

  def __init__(
    self,
    config: endpoint_config.EndpointConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
  ):
    try:
      import openai
    except ImportError as error:
      raise ImportError(
        "endpoints need a client; type: pip install 'rlaif_jax[endpoint]'"
      ) from error
    self._openai = openai
    self._config = config
    self._progress = progress
    self.on_answer: Callable[[int, Any, records.Usage], None] | None = None
    self._key = endpoint_config.read_key(config)
    where = urllib.parse.urlsplit(config.base_url).hostname or ""
    local = where.startswith("127.") or where in ("localhost", "::1")
    self._client = openai.AsyncOpenAI(
      api_key=self._key or "none",
      base_url=config.base_url or None,
      max_retries=0,
      timeout=config.timeout_seconds,
      # A proxy of the environment does not lead to this machine.
      http_client=openai.DefaultAsyncHttpxClient(trust_env=not local),
    )
    for name in ("httpx", "httpx2"):  # They log a line for each request.
      std_logging.getLogger(name).setLevel(std_logging.WARNING)
    url = urllib.parse.urlsplit(str(self._client.base_url))
    host = url.netloc.rpartition("@")[2]
    self.name = (
      f"endpoint:{host}/{config.model}{endpoint_config.settings(config)}"
    )
    self._slots = asyncio.Semaphore(config.max_concurrency)
    self._has_log_probs = False  # in any reply so far
    self._warned: set[str] = set()
    # One loop for all calls, from any thread, keeps connections open.
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Closes the connections; the backend answers no more."""
    self._wait_for(self._client.close())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """All -1: an answer is exactly an option; see `option_log_probs`."""
    return (-1,) * len(options)

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Log-prob that the answer is each option; see `option_log_probs`.

    Returns:
      A row for each prompt, NaN where it got no answer, and what they cost.

    Raises:
      ValueError: an error that stays, or an endpoint without log-probs.
      ConnectionError: not one prompt got an answer.
    """
    options = [option.strip() for option in options]
    if len(set(options)) != len(options) or not all(options):
      raise ValueError(
        f"the options are {options}; they should differ and none be empty: "
        "choose other options in the template"
      )
    written = self._config.answer_tokens or max(map(len, options))
    listed: dict[str, Any] = {"logprobs": self._config.top_logprobs}
    if self._config.api == "chat":
      listed = {"logprobs": True, "top_logprobs": self._config.top_logprobs}
    settings = {"max_tokens": written, "temperature": 0.0, **listed}
    asks = [(prompt, settings) for prompt in prompts]
    call = _Call(asks, lambda choice: response_parsing.scores(choice, options))
    return self._answers(call, failed=[math.nan] * len(options))

  def complete(
    self,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    stop: str,
  ) -> tuple[list[str], records.Usage]:
    """Continues prompts; "" where one got no answer. Raises as above.

    A prompt that is asked several times in one call gets other seeds.
    """
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    if stop:
      settings["stop"] = [stop]
    if top_k > 0 and temperature > 0:
      if self._config.send_top_k:
        settings["top_k"] = top_k
      else:
        self._warn_once(
          f"top_k={top_k} is not applied, since the OpenAI API has none; "
          "where the server takes it, set send_top_k"
        )
    seen: dict[str, int] = collections.defaultdict(int)
    asks = []
    for prompt in prompts:
      own = dict(settings)
      if temperature > 0:
        name = records.content_id(str(seed), prompt, str(seen[prompt]))
        own["seed"] = int(name[:8], 16) & 0x7FFFFFFF
      seen[prompt] += 1
      asks.append((prompt, own))
    chat = self._config.api == "chat"
    call = _Call(asks, lambda c: response_parsing.text(c, chat=chat, stop=stop))
    return self._answers(call, failed="")

  def _answers(
    self, call: _Call, *, failed: Any
  ) -> tuple[list[Any], records.Usage]:
    """Asks all and waits; the answers in the order of the prompts."""
    self._wait_for(self._ask_all(call))
    if call.refusal:
      raise ValueError(call.refusal)
    usage = sum((o.usage for o in call.outcomes), records.Usage())
    faults = collections.Counter(o.fault for o in call.outcomes if o.fault)
    if faults:
      count, asked = faults.total(), len(call.outcomes)
      listed = "; ".join(f"{n} x {text}" for text, n in faults.most_common(3))
      what = f"{self.name}: no answer to {count} of {asked} prompts: {listed}"
      if all(o.fault and o.kind != "own" for o in call.outcomes):
        raise ConnectionError(
          f"{what} (after {self._config.max_retries} retries each). See that "
          "the server is up and base_url right, or raise timeout_seconds or "
          "max_retries; then run the same command again"
        )
      logging.warning("%s", what)
    return [failed if o.fault else o.value for o in call.outcomes], usage

  def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
    """Runs work on the backend's own loop."""
    future = asyncio.run_coroutine_threadsafe(work, self._loop)
    try:
      future.result()
    finally:
      future.cancel()  # After Ctrl-C; a finished one stays as it is.

  async def _ask_all(self, call: _Call) -> None:
    try:
      async with asyncio.TaskGroup() as group:
        for row in range(len(call.asks)):
          group.create_task(self._ask(call, row))
    except BaseExceptionGroup as errors:  # such as a full disk in on_answer
      raise errors.exceptions[0] from None

  async def _ask(self, call: _Call, row: int) -> None:
    """Asks one prompt until it has an answer, or none is to be had.

    Its place among the concurrent ones is kept while it waits, so that an
    overloaded server gets fewer requests. After a refusal nothing new is
    sent; what is under way, and paid for, is still taken.
    """
    outcome, usage, bare = response_parsing.Outcome(), records.Usage(), 0
    tries = self._config.max_retries + 1
    async with self._slots:
      for attempt in range(tries):
        if call.refused.is_set():
          return
        outcome = await self._attempt(call, row)
        usage += outcome.usage + records.Usage(retries=int(attempt > 0))
        if not outcome.fault or outcome.kind == "own":
          break
        bare = bare + 1 if outcome.kind == "bare" else 0
        has_none = bare == min(_BARE_REPLIES, tries)
        if outcome.kind == "permanent" or has_none and not self._has_log_probs:
          call.refuse(f"{self.name}: {outcome.fault}")
          return
        if attempt + 1 < tries:
          wait = self._pause(call.asks[row][0], attempt, outcome.wait)
          with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
              await call.refused.wait()
    call.outcomes[row] = outcome._replace(usage=usage)
    call.done += 1
    if not outcome.fault and self.on_answer is not None:
      self.on_answer(row, outcome.value, usage)
    if self._progress is not None:
      self._progress(call.done, len(call.asks))

  def _pause(self, prompt: str, attempt: int, asked: float | None) -> float:
    """Seconds to wait: as the server asks, or a random part of the bound."""
    limit = self._config.max_backoff_seconds
    if asked is not None:
      return min(asked, limit)
    bound = min(self._config.first_backoff_seconds * 2.0**attempt, limit)
    return bound * random.Random(f"{attempt} {prompt}").random()

  async def _attempt(self, call: _Call, row: int) -> response_parsing.Outcome:
    """Sends a prompt once."""
    openai = self._openai
    prompt, settings = call.asks[row]
    try:
      # The client's own limit is one of silence, not of the whole request.
      async with asyncio.timeout(self._config.timeout_seconds):
        content = await self._send(prompt, settings)
    except openai.APIStatusError as error:
      return response_parsing.status_fault(
        error.status_code,
        self._clean(f"{error.message} {error.code or ''}"),
        error.response.headers,
        now=time.time(),
        key_variable=self._config.api_key_variable,
      )
    except (openai.APITimeoutError, TimeoutError):
      limit = f"{self._config.timeout_seconds:g} seconds"
      return response_parsing.Outcome(fault=f"no reply in {limit}")
    except (openai.APIConnectionError, OSError) as error:
      # Not its text: it may show what was sent.
      what = type(error.__cause__ or error).__name__
      return response_parsing.Outcome(fault=f"the connection was lost ({what})")
    outcome = response_parsing.parse(content, call.read)
    if outcome.usage.requests and not outcome.usage.input_tokens:
      self._warn_once("replies do not say how many tokens they cost; 0 count")
    if isinstance(outcome.value, list):
      self._has_log_probs = True
    return outcome._replace(fault=self._clean(outcome.fault))

  async def _send(self, prompt: str, settings: dict[str, Any]) -> bytes:
    # Not `create`, which takes longer to look at the request and the reply
    # than all the rest of the client.
    body = {"model": self._config.model, "prompt": prompt, **settings}
    body[self._config.token_limit] = body.pop("max_tokens")
    for name in self._config.leave_out:
      body.pop(name, None)
    if self._config.api == "chat":
      body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
      return await self._client.post(
        "/chat/completions", cast_to=bytes, body=body
      )
    return await self._client.post("/completions", cast_to=bytes, body=body)

  def _clean(self, said: str) -> str:
    """A server's words on one line, without the key that they may repeat."""
    if self._key:
      said = said.replace(self._key, "[key]")
    return " ".join(said.split())[:300]

  def _warn_once(self, what: str) -> None:
    if what not in self._warned:
      logging.warning("%s: %s", self.name, what)
    self._warned.add(what)
