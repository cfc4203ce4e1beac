# SPDX-License-Identifier: Apache-2.0
"""Parses responses of an OpenAI-compatible endpoint.

A response is external input: any content gives either an output or an error.
Requests and retries are in `labeling.endpoint`.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import math
import re
from typing import Callable, Literal, Mapping, NamedTuple, Sequence

from rlaif_jax.core import records
from rlaif_jax.labeling import costs

# Minimum probability of an option; about the grid of the judge's labels.
_MIN_PROBABILITY = 1e-12
# Tolerated rounding error of a server in a probability of 1.
_TOLERANCE = 1e-2

# Errors that concern one prompt and not the run.
_BAD_REQUEST = re.compile(
  r"context.{0,12}(length|size|window)|content[ _](filter|management|policy)",
  re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ADVICE = {
  300: "the server redirects, and keys are not sent to another address; set "
  "EndpointConfig.base_url to the final address",
  400: "the message says what the server rejects; check that it supports "
  "EndpointConfig.model, api and top_logprobs",
  401: "set the environment variable {key} to an API key of this endpoint",
  402: "the account has no credit; add some and run the same command again",
  403: "the key in {key} has no access to this model; use another key or model",
  404: "check base_url (it ends with /v1 on most servers), model and api",
}

ErrorKind = Literal["transient", "no_logprobs", "bad_request", "permanent"]


class Outcome(NamedTuple):
  """The output of a request, or an error.

  Fields:
    value: the output; None after an error.
    usage: tokens that the endpoint bills.
    error: message, "" if there is none.
    kind: "transient" is retried. "no_logprobs" is a response without
      log-probs. "bad_request" fails this prompt only. "permanent" would fail
      every prompt.
    retry_after: seconds that the server asks to wait.
  """

  value: records.Output | None = None
  usage: records.Usage = records.Usage()
  error: str = ""
  kind: ErrorKind = "transient"
  retry_after: float | None = None


class Position(NamedTuple):
  """A generated token, and the most likely tokens at its position."""

  token: str
  probability: float
  listed: tuple[tuple[str, float], ...]


def parse(
  content: bytes,
  parse_choice: Callable[[records.Row], Outcome],
  limits: costs.RequestLimits,
) -> Outcome:
  """Parses the first choice of a response; further choices are ignored.

  Args:
    content: body of the response. A body that is sent twice counts once.
    parse_choice: makes an outcome of the choice; may raise LookupError,
      TypeError, ValueError, OverflowError, RecursionError or AttributeError if
      its format is unknown.
    limits: limits of the request's usage.

  Returns:
    The outcome, with the billed tokens even if there is an error. JSON that is
    too deep, and numbers that are too large or no log-probs, fail the prompt
    at once: the server would send them again.
  """
  body, outcome = None, Outcome()
  text = content.decode("utf-8", "replace")
  try:
    body = _decode(content)
    if body.get("choices"):
      outcome = parse_choice(body["choices"][0])
    else:
      why = f": {body['error']}" if body.get("error") else ""
      outcome = Outcome(error=f"a response without choices{why}")
    text = _text(body)
  except json.JSONDecodeError:
    outcome = Outcome(error="the response is not JSON")
  except (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
  ) as error:
    what = f"a response of unknown format ({type(error).__name__})"
    may_pass = isinstance(
      error, (LookupError, TypeError, AttributeError, UnicodeError)
    )
    kind = "transient" if may_pass else "bad_request"
    outcome = Outcome(error=what, kind=kind)
  reported = body.get("usage") if isinstance(body, dict) else None
  usage = limits.usage(reported, text)
  return outcome._replace(usage=usage + outcome.usage)


def _decode(content: bytes) -> records.Row:
  """Decodes a body.

  Raises:
    json.JSONDecodeError: it is not JSON, or something else follows.
    ValueError, RecursionError: it is not UTF-8, or too deep, or has an integer
      of more than 4,300 digits.
  """
  text = content.decode("utf-8").strip()
  body, end = json.JSONDecoder().raw_decode(text)
  if text[end:].strip() not in ("", text[:end]):
    raise json.JSONDecodeError("more than one value", text, end)
  return body


def _text(body: records.Row) -> str:
  """Returns the generated text of the first choice, "" if there is none."""
  choice = (body.get("choices") or [{}])[0]
  text = (choice.get("message") or choice).get("content", choice.get("text"))
  return text if isinstance(text, str) else ""


def parse_text(
  choice: records.Row, *, chat: bool, stop: str, max_tokens: int
) -> Outcome:
  """Returns the text of a choice up to `stop` ("" is no stop string).

  A text that `max_tokens` tokens cannot hold, or with half a surrogate pair,
  fails the prompt.
  """
  output = choice["message"]["content"] if chat else choice["text"]
  # None: a refusal, or all tokens were spent on reasoning.
  output = "" if output is None else output
  output = output.split(stop)[0] if stop else output
  usage = records.Usage(requests=1)
  error = ""
  if len(output) > costs.MAX_CHARACTERS_PER_TOKEN * max_tokens:
    error = f"a text of {len(output)} characters for {max_tokens} tokens"
  elif _SURROGATE.search(output):
    error = "a text with half a surrogate pair, which is invalid Unicode"
  if error:
    return Outcome(usage=usage, error=error, kind="bad_request")
  if not output.strip():
    reason = choice.get("finish_reason")
    error = f"empty text (finish_reason {reason!r})"
    return Outcome(usage=usage, error=error, kind="bad_request")
  return Outcome(output, usage)


def parse_scores(
  choice: records.Row, options: Sequence[str], *, max_tokens: int
) -> Outcome:
  """Returns the log-probs of the options; see `option_log_probs`.

  Positions after the `max_tokens`-th are ignored.
  """
  positions = parse_positions(choice.get("logprobs") or {})[:max_tokens]
  positions = list(itertools.takewhile(lambda p: p.listed, positions))
  if not positions:
    error = (
      "a response without log-probs; use a model that returns them, or parse "
      'text: PairwiseJudgeConfig(judgment="text")'
    )
    return Outcome(error=error, kind="no_logprobs")
  row, missing = option_log_probs(positions, options)
  if missing == len(options):
    token = max(positions[0].listed, key=lambda pair: pair[1])[0]
    error = f"no option is listed; the output begins with {token!r}"
    if not token.strip():
      error += ": increase EndpointConfig.answer_tokens by 1"
    return Outcome(
      usage=records.Usage(requests=1), error=error, kind="bad_request"
    )
  return Outcome(row, records.Usage(requests=1, missing_options=missing))


def parse_positions(log_probs: records.Row) -> list[Position]:
  """Returns the tokens of a choice's `logprobs` in either API format.

  Raises:
    ValueError: a value is not a log-prob.
  """
  if "content" in log_probs:
    rows = [
      (
        item["token"],
        item["logprob"],
        [(top["token"], top["logprob"]) for top in item["top_logprobs"] or ()],
      )
      for item in log_probs["content"] or ()
    ]
  else:
    names = ("tokens", "token_logprobs", "top_logprobs")
    columns = [log_probs.get(name) or () for name in names]
    rows = [
      (token, value, list((top or {}).items()))
      for token, value, top in zip(*columns)
    ]
  return [
    Position(
      token,
      _probability(value),
      tuple((other, _probability(v)) for other, v in top),
    )
    for token, value, top in rows
  ]


def _probability(log_prob: float) -> float:
  value = math.exp(min(log_prob, 1.0))
  if not value <= 1.0 + _TOLERANCE:
    raise ValueError(f"{log_prob} is not a log-prob")
  return min(value, 1.0)


def option_log_probs(
  positions: Sequence[Position], options: Sequence[str]
) -> tuple[list[float], int]:
  """Returns the log-prob of each option from the listed tokens.

  Probabilities of tokens that equal an option up to white space are added. An
  option may also be several tokens; along the generated tokens, the lists of
  later positions give the probabilities of its continuations:

      P("10") = p1("10") + p1("1") p2("0")
      P("1")  = p1("1") (1 - p2("0"))

  where p2 is known only if "1" was generated. An option that no list contains
  gets an upper bound: at each position where it could occur, the smaller of
  the least listed probability and 1 - the sum of the listed ones. The bound
  ignores continuations of tokens that were listed but not generated.

  Args:
    positions: the generated tokens, at least one, each with a list.
    options: options without leading or trailing white space.

  Returns:
    A log-prob for each option, and how many of them are bounds.
  """
  masses, bounds = [0.0] * len(options), [0.0] * len(options)
  missing = [True] * len(options)
  prefix, path = "", 1.0
  for token, probability, listed in positions:
    extra = (
      () if any(t == token for t, _ in listed) else ((token, probability),)
    )
    shown = (*listed, *extra)
    least = min(p for _, p in listed)
    rest = min(least, max(0.0, 1.0 - sum(p for _, p in shown)))
    stripped, longer = prefix.strip(), 0.0
    for i, option in enumerate(options):
      if option == stripped or not option.startswith(stripped):
        continue
      mass = sum(p for t, p in shown if (prefix + t).strip() == option)
      masses[i] += path * mass
      missing[i] = missing[i] and mass == 0.0
      bounds[i] += path * rest
      longer += path * mass
    if stripped in options:
      masses[options.index(stripped)] -= longer
    prefix, path = prefix + token, path * probability
  row = [
    math.log(min(max(bound if is_bound else mass, _MIN_PROBABILITY), 1.0))
    for mass, bound, is_bound in zip(masses, bounds, missing)
  ]
  return row, sum(missing)


def parse_status(
  status: int,
  message: str,
  headers: Mapping[str, str],
  *,
  now: float,
  key_variable: str,
) -> Outcome:
  """Returns the error of an HTTP status other than 200.

  Args:
    status: HTTP status, 300 or above.
    message: message of the endpoint with its error code.
    headers: headers of the response with lower-case names.
    now: seconds since 1970.
    key_variable: environment variable that holds the API key.
  """
  if status in (400, 413) and _BAD_REQUEST.search(message):
    return Outcome(error=message, kind="bad_request")
  # No credit and a rate limit have the same status.
  no_credit = status == 429 and "insufficient_quota" in message
  if not no_credit and (status in (408, 409, 429) or status >= 500):
    return Outcome(error=message, retry_after=parse_wait(headers, now=now))
  status = 402 if no_credit else 300 if status < 400 else status
  advice = _ADVICE.get(status, _ADVICE[400])
  advice = advice.format(key=key_variable)
  return Outcome(error=f"{message}. What to do: {advice}", kind="permanent")


def parse_wait(headers: Mapping[str, str], *, now: float) -> float | None:
  """Returns the seconds that a server asks to wait, or None.

  `Retry-After` is seconds or a date (RFC 9110, section 10.2.3);
  `retry-after-ms` is OpenAI's.

  Args:
    headers: headers of the response with lower-case names.
    now: seconds since 1970.
  """
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    try:
      seconds = float(headers.get(name, "")) * unit
    except ValueError:
      continue
    if math.isfinite(seconds):
      return max(seconds, 0.0)
  try:
    date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    return max(date.timestamp() - now, 0.0)
  except (TypeError, ValueError):
    return None
