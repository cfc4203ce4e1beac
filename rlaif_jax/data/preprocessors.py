# SPDX-License-Identifier: Apache-2.0
"""Converts published rows to records, and applies the paper's filters.

A row in another form raises a ValueError, whose text is the reason in the
quarantine file.
"""

from __future__ import annotations

import re
from typing import Mapping

from rlaif_jax.core import records

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def _require(row: object, *keys: str) -> None:
  if not isinstance(row, Mapping):
    raise ValueError(f"a {type(row).__name__}; a row is an object")
  missing = [key for key in keys if row.get(key) is None]
  if missing:
    raise ValueError(f"missing {missing}; the row has {sorted(row)}")


def _post(row: Mapping[str, object]) -> str:
  """Returns subreddit, title and post as one context (paper section 3.1)."""
  _require(row, "subreddit", "title", "post")
  for key in ("subreddit", "title", "post"):
    if not isinstance(row[key], str):
      raise ValueError(f"{key} is {type(row[key]).__name__}, not text")
  if not row["post"].strip():
    raise ValueError("the post is empty")
  return (
    f"SUBREDDIT: r/{row['subreddit'].removeprefix('r/')}\n"
    f"TITLE: {row['title'].strip()}\nPOST: {row['post'].strip()}"
  )


def tldr(row: Mapping[str, object]) -> records.Example:
  """Converts a row {id, subreddit, title, post, summary} of Reddit TL;DR.

  The published files have summaries of 24-48 tokens; the length is not checked.

  Raises:
    ValueError: if a field is missing, empty or not text.
  """
  _require(row, "id", "summary")
  context, summary = _post(row), row["summary"].strip()
  if not summary:
    raise ValueError("the summary is empty")
  return records.Example(
    id=records.content_id("tldr", str(row["id"])),
    context=context,
    response=summary,
    source=row["subreddit"],
  )


def is_second_first(identity: str) -> bool:
  """Returns whether the second response is stored first, by a hash.

  The order of the published files, such as better response first, is thereby
  removed.
  """
  return records.is_odd(records.content_id("order", identity))


def _preference(
  *,
  context: str,
  texts: tuple[str, str],
  better: int,
  identity: str,
  **kw: object,
) -> records.Preference:
  if texts[0] == texts[1]:
    raise ValueError("the two responses are the same")
  order = (1, 0) if is_second_first(identity) else (0, 1)
  return records.Preference(
    id=identity,
    context=context,
    first=texts[order[0]],
    second=texts[order[1]],
    p_first=1.0 if better == order[0] else 0.0,
    labeler="human",
    **kw,
  )


def comparison(row: Mapping[str, object]) -> records.Preference:
  """Converts a row of the OpenAI summary comparisons.

  The row is {info {id, post, title, subreddit}, summaries [{text, policy,
  note}, {...}], choice 0|1, worker, batch, split, extra {confidence 1..9}}.
  News articles, which have no post, are rejected.

  Raises:
    ValueError: if the row has another form.
  """
  _require(row, "info", "summaries", "choice")
  texts = summary_texts(row["summaries"])
  if len(texts) != 2 or row["choice"] not in (0, 1):
    raise ValueError(
      f"{len(texts)} summaries and choice {row['choice']!r}; a comparison has "
      "two and chooses 0 or 1"
    )
  if not all(texts):
    raise ValueError("a summary is empty")
  confidence = (row.get("extra") or {}).get("confidence") or 0
  if confidence not in range(10):
    raise ValueError(f"confidence {confidence!r}; it is 1..9, or 0 for none")
  info = row["info"]
  return _preference(
    context=_post(info),
    texts=texts,
    better=row["choice"],
    identity=records.content_id(
      str(info.get("id")), *texts, str(row.get("worker")), str(row["choice"])
    ),
    confidence=int(confidence),
    source=info["subreddit"],
  )


def summary_texts(summaries: object) -> tuple[str, ...]:
  """Returns the texts of a list of records, or of TFDS's record of lists."""
  if isinstance(summaries, Mapping):
    return tuple(text.strip() for text in summaries["text"])
  return tuple(summary["text"].strip() for summary in summaries)


def comparison_split(row: object) -> str | None:
  """Returns the split that a comparison names, or None.

  valid1 and valid2 are validation.

  Raises:
    ValueError: if the split is unknown.
  """
  name = row.get("split") if isinstance(row, Mapping) else None
  if not name or name == "train":
    return name or None
  if name in ("valid1", "valid2", "validation"):
    return "validation"
  raise ValueError(f"split {name!r}; it is train, valid1 or valid2")


def _split_last_turn(text: str) -> tuple[str, str]:
  """Returns (dialogue before the last assistant turn, that turn)."""
  if not isinstance(text, str) or not text.startswith(HUMAN):
    raise ValueError("the dialogue does not begin with a Human turn")
  place = text.rfind(ASSISTANT)
  if place < 0 or text.find(HUMAN, place) >= 0:
    raise ValueError("the dialogue does not end with an Assistant turn")
  return text[:place], text[place + len(ASSISTANT) :].strip()


def dialogue(row: Mapping[str, object]) -> records.Preference:
  """Converts a row {chosen, rejected} of Anthropic HH.

  The context is the dialogue before the last Assistant turn, which both sides
  share. Each turn starts a line, as in the judge's templates.

  Raises:
    ValueError: if the row has another form.
  """
  _require(row, "chosen", "rejected")
  context, chosen = _split_last_turn(row["chosen"])
  other, rejected = _split_last_turn(row["rejected"])
  if context != other:
    raise ValueError("the two dialogues differ before their last turn")
  if not chosen or not rejected:
    raise ValueError("a response is empty")
  return _preference(
    context=re.sub(r"\n\n(Human|Assistant):", r"\n\1:", context).strip(),
    texts=(chosen, rejected),
    better=0,
    identity=records.content_id(context, chosen, rejected),
  )


def is_confident(preference: records.Preference) -> bool:
  """Returns the study's filter: rater confidence in {1, 2, 8, 9} of 9."""
  return preference.confidence in (1, 2, 8, 9)


def in_share(identity: str, share: float, salt: str) -> bool:
  """Returns whether a row is in a random share, by a hash of its id."""
  return int(records.content_id(salt, identity)[:8], 16) < share * 2**32
