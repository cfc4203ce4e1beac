# SPDX-License-Identifier: Apache-2.0
"""Schemas of judge benchmarks: `FORMATS`, and parsers of their rows.

The columns of RewardBench 1 and 2 are those of the data sets
allenai/reward-bench and allenai/reward-bench-2, the columns of JudgeBench those
of ScalerLab/JudgeBench, as of 2026. `data.benchmarks` reads the files.
"""

from __future__ import annotations

import re
from typing import Callable, Mapping, NamedTuple, Sequence

from rlaif_jax.core import records
from rlaif_jax.data import preprocessors

# Subset of RewardBench 2 whose prompts come twice, with one and with several
# right answers.
TIES = "Ties"
_TIES_ID = re.compile(r"(ref|tied):\d+")
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


class Format(NamedTuple):
  """A schema: required columns, and a parser of its rows."""

  columns: tuple[str, ...]
  parse: Callable[[records.Row], records.BenchmarkItem]

  def read(self, row: records.Row) -> records.BenchmarkItem:
    """Returns the item of a row.

    Raises:
      ValueError: if a column is missing, or a value has another form.
    """
    missing = [column for column in self.columns if row.get(column) is None]
    if missing:
      raise ValueError(f"missing {missing}; the row has {sorted(row)}")
    return self.parse(row)


def _item(
  row: Mapping[str, object],
  *,
  context: str,
  chosen: Sequence[str],
  rejected: Sequence[str],
  subset: str = "subset",
  identity: str = "id",
) -> records.BenchmarkItem:
  """Returns the item of a row; `subset` and `identity` are columns."""
  if not context.strip():
    raise ValueError("the prompt is empty")
  if not chosen or not rejected:
    raise ValueError(
      f"{len(chosen)} chosen and {len(rejected)} rejected responses; an item "
      "needs one of each"
    )
  if same := set(chosen) & set(rejected):
    raise ValueError(
      f"the response {min(same)!r:.60} is both chosen and rejected"
    )
  part, name = row.get(subset), row.get(identity)
  part = "" if part is None else str(part)
  name = (
    records.content_id(context, *chosen, *rejected)
    if name is None
    else (str(name))
  )
  pairs = []
  for i, better in enumerate(chosen):
    for j, worse in enumerate(rejected):
      pair = f"{part}/{name}" if part else name
      if len(chosen) * len(rejected) > 1:
        pair += f"/{i}-{j}"
      swap = preprocessors.is_second_first(pair)
      pairs.append(
        records.Preference(
          id=pair,
          context=context,
          first=worse if swap else better,
          second=better if swap else worse,
          p_first=0.0 if swap else 1.0,
          labeler="human",
          source=part,
        )
      )
  return records.BenchmarkItem(
    id=name, subset=part, pairs=tuple(pairs), num_chosen=len(chosen)
  )


def _text(value: object, column: str) -> str:
  if not isinstance(value, str):
    raise ValueError(
      f"{column} is {value!r:.60}; it must be text or a list of "
      "{role, content} messages"
    )
  return value


def _turns(messages: Sequence[object], column: str) -> list[tuple[str, str]]:
  """Returns (speaker, text) of each message."""
  found = []
  for message in messages:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _SPEAKERS:
      raise ValueError(
        f"{column} has the message {message!r:.60}; a message is {{role, "
        f"content}} with a role of {tuple(_SPEAKERS)}"
      )
    found.append((_SPEAKERS[role], _text(message.get("content"), column)))
  return found


def _dialogue(turns: Sequence[tuple[str, str]]) -> str:
  """Returns a context; a dialogue of one turn is its text."""
  if len(turns) == 1:
    return turns[0][1]
  return "\n".join(f"{speaker}: {text}" for speaker, text in turns)


def _response(value: object, column: str) -> tuple[str, str]:
  """Returns (dialogue before the response, the response)."""
  if not isinstance(value, (list, tuple)):
    return "", _text(value, column)
  turns = _turns(value, column)
  if not turns or turns[-1][0] != "Assistant":
    raise ValueError(f"{column} does not end with a message of the assistant")
  return _dialogue(turns[:-1]), turns[-1][1]


def _pair(
  row: Mapping[str, object],
  columns: tuple[str, str, str] = ("prompt", "chosen", "rejected"),
  **names: str,
) -> records.BenchmarkItem:
  """Returns the item of a prompt with one better and one worse response.

  Responses may be dialogues that repeat the prompt, which then is optional.
  """
  prompt, chosen, rejected = columns
  before, better = _response(row[chosen], chosen)
  other, worse = _response(row[rejected], rejected)
  if before != other:
    raise ValueError("the two dialogues differ before their last turn")
  context = before
  if not before:
    value = row[prompt]
    is_list = isinstance(value, (list, tuple))
    context = (
      _dialogue(_turns(value, prompt)) if is_list else _text(value, prompt)
    )
  return _item(row, context=context, chosen=[better], rejected=[worse], **names)


def _dialogues(row: Mapping[str, object]) -> records.BenchmarkItem:
  """Returns the item of two dialogues that differ in the last turn."""
  if not isinstance(row["chosen"], str):
    return _pair(row)
  pair = preprocessors.dialogue(row)
  texts = (pair.first, pair.second)
  better = int(pair.p_first < 0.5)
  return _item(
    row,
    context=pair.context,
    chosen=[texts[better]],
    rejected=[texts[1 - better]],
  )


def _best_of_n(row: Mapping[str, object]) -> records.BenchmarkItem:
  """Returns the item of several chosen and rejected responses."""
  if row.get("subset") == TIES and not _TIES_ID.fullmatch(str(row.get("id"))):
    raise ValueError(
      f"the id of a row of the subset {TIES} is {row.get('id')!r}; it must be "
      "ref:NUMBER or tied:NUMBER"
    )
  responses = {}
  for column, count in (
    ("chosen", row["num_correct"]),
    ("rejected", row.get("num_incorrect")),
  ):
    if not isinstance(row[column], (list, tuple)):
      raise ValueError(f"{column} is {row[column]!r:.60}; it must be a list")
    responses[column] = [_text(text, column) for text in row[column]]
    if count is not None and len(responses[column]) != count:
      raise ValueError(
        f"{column} has {len(responses[column])} responses, and the row counts "
        f"{count}"
      )
  return _item(row, context=_text(row["prompt"], "prompt"), **responses)


def _judge_bench(row: Mapping[str, object]) -> records.BenchmarkItem:
  if row["label"] not in ("A>B", "B>A"):
    raise ValueError(f"label is {row['label']!r}; it must be 'A>B' or 'B>A'")
  columns = ("response_A", "response_B")
  if row["label"] == "B>A":
    columns = columns[::-1]
  return _pair(row, ("question", *columns), subset="source", identity="pair_id")


def _preference(row: Mapping[str, object]) -> records.BenchmarkItem:
  human = records.from_row(records.Preference, dict(row))
  return records.BenchmarkItem(id=human.id, subset=human.source, pairs=(human,))


# In this order, the first whose columns a row has is the format of a file.
FORMATS: dict[str, Format] = {
  # Records of this library.
  "preferences": Format(("context", "first", "second", "p_first"), _preference),
  "judge_bench": Format(
    ("question", "response_A", "response_B", "label"), _judge_bench
  ),
  "reward_bench_2": Format(
    ("prompt", "chosen", "rejected", "num_correct"), _best_of_n
  ),
  "reward_bench": Format(("prompt", "chosen", "rejected"), _pair),
  # Such as Anthropic HH.
  "dialogues": Format(("chosen", "rejected"), _dialogues),
}


def of_columns(
  columns: tuple[str, str, str], *, subset: str, identity: str
) -> Format:
  """Returns a format of named columns.

  Args:
    columns: of the prompt, the better and the worse response.
    subset: column of the subset; "" for none.
    identity: column of the id; "" for none.
  """
  return Format(
    columns=(*columns, *(name for name in (subset, identity) if name)),
    parse=lambda row: _pair(row, columns, subset=subset, identity=identity),
  )


def recognise(row: records.Row) -> str:
  """Returns the first format whose columns a row has.

  Raises:
    ValueError: if there is none.
  """
  for name, known in FORMATS.items():
    if all(column in row for column in known.columns):
      return name
  known = "; ".join(f"{name}: {f.columns}" for name, f in FORMATS.items())
  raise ValueError(
    f"the columns {sorted(row)} are of no known benchmark ({known}); for other "
    "columns: --format=columns --prompt=COLUMN --chosen=COLUMN "
    "--rejected=COLUMN --subset=COLUMN --id=COLUMN"
  )
