# SPDX-License-Identifier: Apache-2.0
"""Backend over an OpenAI-compatible endpoint.

Sends concurrent requests up to a limit, retries transient errors and never
requests an output again once it has arrived. The API is that of
https://platform.openai.com/docs/api-reference; vLLM, SGLang and llama.cpp
serve it too. `labeling.response_parsing` parses the responses.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import random
import threading
import time
import urllib.parse
from typing import Callable, Coroutine, Sequence, TypeVar

from absl import logging

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import endpoint_http
from rlaif_jax.labeling import response_parsing
from rlaif_jax.text import estimates

T = TypeVar("T")

# Consecutive responses without log-probs that a prompt may get by chance.
_MAX_WITHOUT_LOGPROBS = 3
# Shorter keys are placeholders such as "none"; texts may contain them.
_MIN_KEY = 8


class _Call:
  """The requests of one call of the backend, and their outcomes."""

  def __init__(
    self,
    requests: Sequence[tuple[str, records.Row]],
    parse_choice: Callable[[records.Row], response_parsing.Outcome],
  ):
    self.requests = requests  # (prompt, parameters)
    self.parse_choice = parse_choice
    self.outcomes = [response_parsing.Outcome() for _ in requests]
    self.done = 0
    self.error: Exception | None = None
    self.failed = asyncio.Event()

  def fail(self, error: Exception) -> None:
    """Stops the call with the first error that would fail every prompt."""
    self.error = self.error or error
    self.failed.set()


class EndpointBackend:
  """A `protocols.PaidBackend` over an endpoint.

  A prompt that fails after all retries, or that the endpoint rejects (too
  long, filtered), gets NaN or "" as its output, which the judges quarantine.
  If `on_output` is set, it is called with (index of the prompt, output, usage)
  as each output arrives, and with None as the output of a failed attempt that
  is billed. If `budget` is set, each request reserves its largest cost first;
  one that does not fit waits for those in flight, and ends the call if there
  are none.

  Args:
    config: settings of the endpoint.
    tokenizer: counts the tokens of responses without a valid usage; None
      assumes three characters per token.
    progress: called after each prompt with (prompts done, number of prompts).

  Raises:
    ImportError: the client is not installed.
    ValueError: the endpoint needs an API key and the environment has none.
  """

  def __init__(
    self,
    config: endpoint_config.EndpointConfig,
    *,
    tokenizer: protocols.Tokenizer | None = None,
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
    self._tokenizer = tokenizer or estimates.EstimatedTokenizer()
    self._progress = progress
    self.on_output: protocols.OnOutput | None = None
    self.budget: costs.Budget | None = None
    self._key = endpoint_config.read_key(config)
    self._client = endpoint_http.make_client(openai, config, self._key)
    url = urllib.parse.urlsplit(str(self._client.base_url))
    host = url.netloc.rpartition("@")[2]
    settings = endpoint_config.describe_settings(config)
    self.name = f"endpoint:{host}/{config.model}{settings}"
    self._slots = asyncio.Semaphore(config.max_concurrency)
    self._charged = asyncio.Condition()
    self._has_log_probs = False  # in any response so far
    self._warned: set[str] = set()
    # One event loop for all calls, from any thread, keeps connections open.
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Closes the connections; the backend cannot be used afterwards."""
    self._wait_for(self._client.close())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """Returns all -1, since `option_log_probs` scores exact options."""
    return (-1,) * len(options)

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Returns the log-prob of each option; see `option_log_probs`.

    Returns:
      A row for each prompt, NaN if it failed, and the tokens used.

    Raises:
      ValueError: an error that would fail every prompt, or an endpoint without
        log-probs.
      ConnectionError: every prompt failed.
      costs.BudgetExhausted: the rest of `budget` is too small for a request;
        outputs that were paid for went to `on_output`.
    """
    options = [option.strip() for option in options]
    if len(set(options)) != len(options) or not all(options):
      raise ValueError(
        f"the options are {options}; use different, non-empty options in the "
        "template"
      )
    max_tokens = self._config.answer_tokens or max(map(len, options))
    log_probs: records.Row = {"logprobs": self._config.top_logprobs}
    if self._config.api == "chat":
      log_probs = {"logprobs": True, "top_logprobs": self._config.top_logprobs}
    parameters = {"max_tokens": max_tokens, "temperature": 0.0, **log_probs}
    call = _Call(
      [(prompt, parameters) for prompt in prompts],
      lambda choice: response_parsing.parse_scores(
        choice, options, max_tokens=max_tokens
      ),
    )
    return self._outputs(call, failed=[math.nan] * len(options))

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
    """Continues prompts; a failed one gives "". Raises like `score_options`.

    Repetitions of a prompt in one call get different seeds.
    """
    shared = {"max_tokens": max_tokens, "temperature": temperature}
    if stop:
      shared["stop"] = [stop]
    if top_k > 0 and temperature > 0:
      if self._config.send_top_k:
        shared["top_k"] = top_k
      else:
        self._warn_once(
          f"top_k={top_k} is not applied, since the OpenAI API has none; set "
          "EndpointConfig.send_top_k if the server supports it"
        )
    seen: dict[str, int] = collections.defaultdict(int)
    requests = []
    for prompt in prompts:
      parameters = dict(shared)
      if temperature > 0:
        name = records.content_id(str(seed), prompt, str(seen[prompt]))
        parameters["seed"] = int(name[:8], 16) & 0x7FFFFFFF
      seen[prompt] += 1
      requests.append((prompt, parameters))
    chat = self._config.api == "chat"
    call = _Call(
      requests,
      lambda choice: response_parsing.parse_text(
        choice, chat=chat, stop=stop, max_tokens=max_tokens
      ),
    )
    return self._outputs(call, failed="")

  def _outputs(
    self, call: _Call, *, failed: T
  ) -> tuple[list[T], records.Usage]:
    """Sends all requests and waits; returns outputs in order of the prompts."""
    self._wait_for(self._send_all(call))
    if call.error is not None:
      raise call.error
    usage = sum((o.usage for o in call.outcomes), records.Usage())
    errors = collections.Counter(o.error for o in call.outcomes if o.error)
    if errors:
      count, total = errors.total(), len(call.outcomes)
      listed = "; ".join(f"{n} x {text}" for text, n in errors.most_common(3))
      what = f"{self.name}: {count} of {total} prompts failed: {listed}"
      if all(o.error and o.kind != "bad_request" for o in call.outcomes):
        raise ConnectionError(
          f"{what} (after {self._config.max_retries} retries each). Check that "
          "the server is up and EndpointConfig.base_url is right, or raise "
          "timeout_seconds or max_retries; then run the same command again"
        )
      logging.warning("%s", what)
    return [failed if o.error else o.value for o in call.outcomes], usage

  def _wait_for(self, work: Coroutine[object, object, None]) -> None:
    """Runs a coroutine on the backend's event loop."""
    future = asyncio.run_coroutine_threadsafe(work, self._loop)
    try:
      future.result()
    finally:
      future.cancel()  # after Ctrl-C; no effect if the coroutine is done

  async def _send_all(self, call: _Call) -> None:
    try:
      async with asyncio.TaskGroup() as group:
        for row in range(len(call.requests)):
          group.create_task(self._request(call, row))
    except BaseExceptionGroup as errors:  # such as a full disk in on_output
      raise errors.exceptions[0] from None

  async def _request(self, call: _Call, row: int) -> None:
    """Sends one prompt until it has an output, or fails.

    The prompt keeps its slot while it waits to retry, so that an overloaded
    server gets fewer requests. After a fatal error no new request is sent;
    outputs of requests in flight, which are paid for, are still recorded.
    """
    outcome = response_parsing.Outcome()
    total = unreported = records.Usage()
    without_logprobs = 0
    prompt, parameters = call.requests[row]
    limits = costs.RequestLimits(
      prompt=prompt,
      max_tokens=parameters["max_tokens"],
      count_tokens=lambda text: len(self._tokenizer.encode(text)),
    )
    tries = self._config.max_retries + 1
    async with self._slots:
      for attempt in range(tries):
        outcome = await self._attempt(call, row, limits)
        if outcome is None:
          return
        usage = outcome.usage + records.Usage(retries=int(attempt > 0))
        total, unreported = total + usage, unreported + usage
        if outcome.error and outcome.usage != records.Usage():
          self._report(row, None, unreported)
          unreported = records.Usage()
        if not outcome.error or outcome.kind == "bad_request":
          break
        if outcome.kind == "no_logprobs":
          without_logprobs += 1
        else:
          without_logprobs = 0
        limit = min(_MAX_WITHOUT_LOGPROBS, tries)
        has_none = without_logprobs == limit and not self._has_log_probs
        if outcome.kind == "permanent" or has_none:
          call.fail(ValueError(f"{self.name}: {outcome.error}"))
          return
        if attempt + 1 < tries:
          wait = self._backoff(prompt, attempt, outcome.retry_after)
          with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
              await call.failed.wait()
    call.outcomes[row] = outcome._replace(usage=total)
    call.done += 1
    if not outcome.error:
      self._report(row, outcome.value, unreported)
    if self._progress is not None:
      self._progress(call.done, len(call.requests))

  def _report(
    self, row: int, output: records.Output | None, usage: records.Usage
  ) -> None:
    if self.on_output is not None:
      self.on_output(row, output, usage)

  def _backoff(
    self, prompt: str, attempt: int, retry_after: float | None
  ) -> float:
    """Returns seconds to wait: Retry-After, or exponential with full jitter."""
    limit = self._config.max_backoff_seconds
    if retry_after is not None:
      return min(retry_after, limit)
    bound = min(self._config.first_backoff_seconds * 2.0**attempt, limit)
    return bound * random.Random(f"{attempt} {prompt}").random()

  async def _attempt(
    self, call: _Call, row: int, limits: costs.RequestLimits
  ) -> response_parsing.Outcome | None:
    """Sends a prompt once within the budget; returns None if the call ends."""
    budget, most = self.budget, limits.max_usage()
    if call.failed.is_set():
      return None
    if budget is None:
      return await self._send(call, row, limits)
    async with self._charged:
      while not budget.reserve(most):
        if not budget.is_in_use():
          call.fail(budget.error("the next request", most))
        if call.failed.is_set():
          return None
        await self._charged.wait()
    outcome = response_parsing.Outcome()
    try:
      outcome = await self._send(call, row, limits)
    finally:
      budget.charge(most, outcome.usage)
      async with self._charged:
        self._charged.notify_all()
    return outcome

  async def _send(
    self, call: _Call, row: int, limits: costs.RequestLimits
  ) -> response_parsing.Outcome:
    """Sends a prompt and parses the response."""
    openai = self._openai
    try:
      # The client's own timeout bounds silence, not the whole request.
      async with asyncio.timeout(self._config.timeout_seconds):
        content = await self._post(*call.requests[row])
    except openai.APIStatusError as error:
      headers = error.response.headers
      message = f"{error.message} {error.code or ''}"
      message += f" {headers.get('location', '')}"
      return response_parsing.parse_status(
        error.status_code,
        self._clean(message),
        headers,
        now=time.time(),
        key_variable=self._config.api_key_variable,
      )
    except (openai.APITimeoutError, TimeoutError):
      limit = f"{self._config.timeout_seconds:g} seconds"
      return response_parsing.Outcome(error=f"no response in {limit}")
    # ValueError: a body that cannot be read, or a prompt that is no Unicode.
    except (
      openai.APIConnectionError,
      OSError,
      ValueError,
      RecursionError,
    ) as error:
      return endpoint_http.parse_failure(error, limits)
    outcome = response_parsing.parse(content, call.parse_choice, limits)
    if outcome.usage.estimated:
      self._warn_once("token counts that are missing or wrong are estimated")
    if isinstance(outcome.value, list):
      self._has_log_probs = True
    elif outcome.value is not None and len(self._key) >= _MIN_KEY:
      # Some servers repeat the headers of the request.
      outcome = outcome._replace(
        value=outcome.value.replace(self._key, "[key]")
      )
    return outcome._replace(error=self._clean(outcome.error))

  async def _post(self, prompt: str, parameters: records.Row) -> bytes:
    # Not `create`: its validation takes longer than the rest of the client.
    body = {"model": self._config.model, "prompt": prompt, **parameters}
    body[self._config.token_limit] = body.pop("max_tokens")
    for name in self._config.leave_out:
      body.pop(name, None)
    if self._config.api == "chat":
      body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
      return await self._client.post(
        "/chat/completions", cast_to=bytes, body=body
      )
    return await self._client.post("/completions", cast_to=bytes, body=body)

  def _clean(self, message: str) -> str:
    """Makes a server's message one printable line without the API key."""
    if self._key:
      message = message.replace(self._key, "[key]")
    shown = (c if c.isprintable() else " " for c in message[:3000])
    return " ".join("".join(shown).split())[:300]

  def _warn_once(self, what: str) -> None:
    if what not in self._warned:
      logging.warning("%s: %s", self.name, what)
    self._warned.add(what)
