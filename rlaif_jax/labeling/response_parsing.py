# SPDX-License-Identifier: Apache-2.0
"""What a reply of an OpenAI-compatible endpoint says, or why it says nothing.

Replies come from outside: each is an answer or names its fault, whatever is
in it. Sending and asking again is `labeling.endpoint`.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import math
import re
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from rlaif_jax.core import records

# Least probability that an option gets; about the grid of the judge's labels.
_FLOOR = 1e-12
# Rounding that a server may show in a probability of 1.
_TOLERANCE = 1e-2

# Refusals that concern one prompt and not the run.
_OWN = re.compile(
  r"context.{0,12}(length|size|window)|content[ _](filter|management|policy)",
  re.IGNORECASE,
)
_ADVICE = {
  400: "the message says what it does not take; compare model, api and "
  "top_logprobs with what this server serves",
  401: "set the environment variable {key} to a key of this endpoint",
  402: "the account has no credit; add some and run the same command again",
  403: "the key in {key} may not use this model; get access, or set another",
  404: "check base_url (it ends with /v1 at most servers), model and api",
}


class Outcome(NamedTuple):
  """An answer, or the fault that took its place.

  Faults are "passing" (ask again), "bare" (no log-probs), "own" (this prompt
  has no answer) or "permanent" (no prompt would have one).
  """

  value: Any = None
  usage: records.Usage = records.Usage()
  fault: str = ""
  kind: str = "passing"
  wait: float | None = None  # seconds that the server asks for


class Position(NamedTuple):
  """A token that was written, and the likeliest ones in its place."""

  token: str
  probability: float
  listed: tuple[tuple[str, float], ...]


def parse(content: bytes, read: Callable[[Any], Outcome]) -> Outcome:
  """Reads the first choice of a reply; further ones are dropped.

  Args:
    content: the body. One that is there twice counts once.
    read: makes an outcome of the choice; may raise LookupError, TypeError,
      ValueError or AttributeError where it has another form.

  Returns:
    The outcome with the tokens of the reply, which are paid for even if it
    says nothing.
  """
  usage = records.Usage()
  try:
    said = content.decode("utf-8").strip()
    body, end = json.JSONDecoder().raw_decode(said)
    if said[end:].strip() not in ("", said[:end]):
      return Outcome(fault="the reply is not JSON")
    usage = _usage(body.get("usage") or {})
    if not body.get("choices"):
      why = f": {body['error']}" if body.get("error") else ""
      return Outcome(usage=usage, fault=f"a reply without choices{why}")
    outcome = read(body["choices"][0])
  except json.JSONDecodeError:
    return Outcome(fault="the reply is not JSON")
  except (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
  ) as error:
    what = f"a reply of another form ({type(error).__name__})"
    return Outcome(usage=usage, fault=what)
  return outcome._replace(usage=usage + outcome.usage)


def _usage(counts: Mapping[str, Any]) -> records.Usage:
  """Tokens as the endpoint bills them; what it does not say is 0."""
  details = counts.get("prompt_tokens_details") or {}
  return records.Usage(
    input_tokens=int(counts.get("prompt_tokens") or 0),
    output_tokens=int(counts.get("completion_tokens") or 0),
    cached_input_tokens=int(details.get("cached_tokens") or 0),
  )


def text(choice: Mapping[str, Any], *, chat: bool, stop: str) -> Outcome:
  """The text of a choice up to `stop` ("" is none)."""
  said = choice["message"]["content"] if chat else choice["text"]
  # A refusal, or a model that has used up its tokens with thinking.
  said = "" if said is None else said
  said = said.split(stop)[0] if stop else said
  usage = records.Usage(requests=1)
  if not said.strip():
    ended = choice.get("finish_reason")
    fault = f"an empty text (finish_reason {ended!r})"
    return Outcome(usage=usage, fault=fault, kind="own")
  return Outcome(said, usage)


def scores(choice: Mapping[str, Any], options: Sequence[str]) -> Outcome:
  """Log-probs of the options in a choice; see `option_log_probs`."""
  found = positions(choice.get("logprobs") or {})
  found = list(itertools.takewhile(lambda position: position.listed, found))
  if not found:
    fault = (
      "a reply without log-probs; take a model that gives them, or let the "
      'judge read the answers: JudgeConfig(verdict="text")'
    )
    return Outcome(fault=fault, kind="bare")
  row, missing = option_log_probs(found, options)
  if missing == len(options):
    said = max(found[0].listed, key=lambda pair: pair[1])[0]
    fault = f"no option is listed; the answer begins with {said[:20]!r}"
    if not said.strip():
      fault += ": set answer_tokens to 1 more"
    return Outcome(usage=records.Usage(requests=1), fault=fault, kind="own")
  return Outcome(row, records.Usage(requests=1, missing_options=missing))


def positions(log_probs: Mapping[str, Any]) -> list[Position]:
  """The tokens of a choice's `logprobs`, in either layout of the API.

  Raises:
    ValueError: a number that is no log-prob.
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
    raise ValueError(f"{log_prob} is no log-prob")
  return min(value, 1.0)


def option_log_probs(
  found: Sequence[Position], options: Sequence[str]
) -> tuple[list[float], int]:
  """Log-prob that the answer is each option, from the tokens that are listed.

  Tokens that are an option but for white space at its ends add up. An option
  may also be written in several tokens: along those that the labeler wrote,
  the lists of later positions say how it goes on.

      P("10") = p1("10") + p1("1") p2("0")
      P("1")  = p1("1") (1 - p2("0"))

  where p2 is known only if the labeler wrote "1". An option that is listed
  nowhere has at most min(the least listed probability, 1 - the sum of those
  listed) at each position that could have it; this bound stands for it. It
  leaves out what begins with a token that was listed but not written.

  Args:
    found: the written tokens, at least one, each with a list.
    options: without white space at their ends.

  Returns:
    A log-prob for each option, and how many of them are bounds.
  """
  masses, bounds = [0.0] * len(options), [0.0] * len(options)
  missing = [True] * len(options)
  written, path = "", 1.0
  for token, probability, listed in found:
    own = () if any(t == token for t, _ in listed) else ((token, probability),)
    shown = (*listed, *own)
    least = min(p for _, p in listed)
    rest = min(least, max(0.0, 1.0 - sum(p for _, p in shown)))
    begun, longer = written.strip(), 0.0
    for i, option in enumerate(options):
      if option == begun or not option.startswith(begun):
        continue
      mass = sum(p for t, p in shown if (written + t).strip() == option)
      masses[i] += path * mass
      missing[i] = missing[i] and mass == 0.0
      bounds[i] += path * rest
      longer += path * mass
    if begun in options:
      masses[options.index(begun)] -= longer
    written, path = written + token, path * probability
  row = [
    math.log(min(max(bound if gone else mass, _FLOOR), 1.0))
    for mass, bound, gone in zip(masses, bounds, missing)
  ]
  return row, sum(missing)


def status_fault(
  status: int,
  said: str,
  headers: Mapping[str, str],
  *,
  now: float,
  key_variable: str,
) -> Outcome:
  """What an HTTP status other than 200 means for the prompt.

  Args:
    status: 400 and above.
    said: the endpoint's message, with its code.
    headers: of the reply, their names in lower case.
    now: seconds since 1970.
    key_variable: environment variable that holds the key.
  """
  if status in (400, 413) and _OWN.search(said):
    return Outcome(fault=said, kind="own")
  # An account without credit is told by the status of one that is too fast.
  no_credit = status == 429 and "insufficient_quota" in said
  if not no_credit and (status in (408, 409, 429) or status >= 500):
    return Outcome(fault=said, wait=retry_after(headers, now=now))
  advice = _ADVICE.get(402 if no_credit else status, _ADVICE[400])
  advice = advice.format(key=key_variable)
  return Outcome(fault=f"{said}. What to do: {advice}", kind="permanent")


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
  """Seconds that a server asks to wait, or None.

  `Retry-After` is seconds or a date (RFC 9110, section 10.2.3);
  `retry-after-ms` is OpenAI's.

  Args:
    headers: of the reply, their names in lower case.
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
