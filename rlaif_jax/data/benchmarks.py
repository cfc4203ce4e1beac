# SPDX-License-Identifier: Apache-2.0
"""Reads judge benchmarks: prompts with better and worse responses.

`FORMATS` lists the known schemas. The columns of RewardBench 1 and 2 are those
of the data sets allenai/reward-bench and allenai/reward-bench-2, the columns of
JudgeBench those of ScalerLab/JudgeBench, as of 2026.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import os
import pathlib
import re
from typing import Callable, Mapping, NamedTuple, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.data import preprocessors
from rlaif_jax.data import readers

# Subset of RewardBench 2 whose prompts come twice, with one and with several
# right answers.
TIES = "Ties"
_TIES_ID = re.compile(r"(ref|tied):\d+")
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(validation.Validated):
  """How benchmark files are read.

  Fields:
    format: a name in `FORMATS`, "auto" to recognise one by the columns of the
      first row, or "columns" to read the columns named below.
    subsets: subsets to evaluate; () takes all.
    sample: number of items of them, drawn by a hash of their ids; 0 takes all.
      Published files are sorted by subset. A larger sample contains a smaller
      one.
    prompt: column of the prompt.
    chosen: column of the better response.
    rejected: column of the worse response.
    subset: column of the subset; "" puts all rows into one subset.
    id: column of the id; "" takes a hash of the texts.
  """

  format: str = "auto"
  subsets: tuple[str, ...] = ()
  sample: validation.NonNegativeInt = 0
  prompt: str = "prompt"
  chosen: str = "chosen"
  rejected: str = "rejected"
  subset: str = "subset"
  id: str = "id"

  def __post_init__(self):
    super().__post_init__()
    names = ("auto", "columns", *FORMATS)
    if self.format not in names:
      raise ValueError(
        f"BenchmarkConfig.format is {self.format!r}; use one of {names}"
      )


class Benchmark(NamedTuple):
  """The items of a benchmark file, and the name of its format."""

  format: str
  items: list[records.BenchmarkItem]

  @property
  def pairs(self) -> list[records.Preference]:
    """The human labels of all items, in order."""
    return [pair for item in self.items for pair in item.pairs]

  def first(self, count: int) -> Benchmark:
    """Returns the first items; 0 keeps all."""
    return self._replace(items=self.items[: count or None])


class Format(NamedTuple):
  """A schema: required columns, and a parser of its rows."""

  columns: tuple[str, ...]
  parse: Callable[[records.Row], records.BenchmarkItem]


def read(
  path: str | os.PathLike,
  config: BenchmarkConfig,
  quarantine: jsonl.Quarantine | None = None,
) -> Benchmark:
  """Reads a .jsonl, .jsonl.gz or .parquet file of a benchmark.

  The chosen response is stored first or second by a hash of the pair's id, so
  that the position says nothing about it. `source` of a pair is the subset.

  Args:
    path: the file.
    config: format and subsets.
    quarantine: receives rows without their columns, with values of another
      type, with equal responses or with an id that occurred before (several
      people may label one pair of preferences). None raises for the first
      such row.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the format is not recognised, a row is bad and `quarantine`
      is None, no row is valid, or a subset is unknown.
  """
  bad = jsonl.Quarantine()
  name, table = config.format, FORMATS | {"columns": _named_columns(config)}
  items, seen = [], set()
  for where, row in readers.read_file(pathlib.Path(path), bad):
    try:
      row = jsonl.row_of(row)
      name = _recognise(row) if name == "auto" else name
      item = table[name].parse(_with_columns(row, table[name]))
      if name != "preferences" and item.pairs[0].id in seen:
        raise ValueError(f"the id {item.pairs[0].id!r} occurs twice")
    except parsing.ERRORS as error:
      bad.add(where=where, reason=parsing.reason(error), row=row)
      continue
    seen.add(item.pairs[0].id)
    items.append(item)
  if bad.rows and (quarantine is None or not items):
    first = bad.rows[0]
    raise jsonl.bad_line(first["where"], ValueError(first["reason"]))
  if quarantine is not None:
    quarantine.rows += bad.rows
  if not items:
    raise ValueError(f"{path} has no rows; it should have one per prompt")
  items = _selected(items, config.subsets, path)
  return Benchmark(name, _drawn(items, config.sample))


def _recognise(row: records.Row) -> str:
  """Returns the first format whose columns a row has."""
  for name, known in FORMATS.items():
    if all(column in row for column in known.columns):
      return name
  known = "; ".join(f"{name}: {f.columns}" for name, f in FORMATS.items())
  raise ValueError(
    f"the columns {sorted(row)} are of no known benchmark ({known}); for other "
    "columns: --format=columns --prompt=COLUMN --chosen=COLUMN "
    "--rejected=COLUMN --subset=COLUMN --id=COLUMN"
  )


def _with_columns(row: records.Row, known: Format) -> records.Row:
  """Returns the row if it has the columns of a format."""
  missing = [column for column in known.columns if row.get(column) is None]
  if missing:
    raise ValueError(f"missing {missing}; the row has {sorted(row)}")
  return row


def _selected(
  items: list[records.BenchmarkItem],
  subsets: Sequence[str],
  path: str | os.PathLike,
) -> list[records.BenchmarkItem]:
  """Returns the items of the subsets, or all."""
  counts = collections.Counter(item.subset for item in items)
  for subset in subsets:
    if subset not in counts:
      near = difflib.get_close_matches(subset, counts, n=1, cutoff=0.5)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"BenchmarkConfig.subsets has {subset!r}, and {path} has no such "
        f"subset; it has {dict(counts)}.{hint}"
      )
  return [item for item in items if not subsets or item.subset in subsets]


def _drawn(
  items: list[records.BenchmarkItem], count: int
) -> list[records.BenchmarkItem]:
  """Returns a sample in the order of the file; see `BenchmarkConfig.sample`."""
  if not count:
    return items
  keys = [records.content_id("shuffle", item.pairs[0].id) for item in items]
  chosen = set(sorted(keys)[:count])
  return [item for item, key in zip(items, keys, strict=True) if key in chosen]


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
    ("rejected", row.get("num_incorrect", len(row["rejected"]))),
  ):
    responses[column] = [_text(text, column) for text in row[column]]
    if len(responses[column]) != count:
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


def _named_columns(config: BenchmarkConfig) -> Format:
  columns = (config.prompt, config.chosen, config.rejected)
  names = (name for name in (config.subset, config.id) if name)
  return Format(
    columns=(*columns, *names) if config.format == "columns" else columns,
    parse=lambda row: _pair(
      row, columns, subset=config.subset, identity=config.id
    ),
  )


AUTO = BenchmarkConfig()
