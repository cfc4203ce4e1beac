# SPDX-License-Identifier: Apache-2.0
"""Reads examples, and serves rows as batches on the mesh.

One process encodes all rows at once. Each of several processes reads and
encodes only the rows that its own devices hold.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Mapping, Sequence

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import record_files
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.data import pipeline
from rlaif_jax.data import registered_tasks
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import processes

# records -> (arrays of as many rows, counts to report)
Encode = Callable[[Sequence[object]], tuple[protocols.Batch, Mapping[str, int]]]

# Rows that are encoded at once to be checked and counted.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSource(validation.Validated):
  """Examples of a JSONL file, or of one split of a task.

  Attributes:
    data_dir: output directory of the `prepare` job; read for tasks.
    examples_file: JSONL of examples; "": a task.
    task: name of the task (`data.pipeline.TASKS`), or of a SeqIO task or
      mixture that an imported module registers; "": a file.
    split: split of the task.
    limit: number of rows to read, from the first on; 0: all.
  """

  data_dir: str = ""
  examples_file: str = ""
  task: str = ""
  split: str = "train"
  limit: validation.NonNegativeInt = 0

  def read(self, on_demand: bool = False) -> Sequence[records.Example]:
    """Returns the examples.

    Args:
      on_demand: if there are several processes, each reads a row when it is
        indexed; see `record_files.RecordsOnDemand`.

    Raises:
      ValueError: if not exactly one of file and task is set, or there are no
        rows.
    """
    if bool(self.examples_file) == bool(self.task):
      raise ValueError(
        f"examples_file is {self.examples_file!r} and task is {self.task!r}; "
        "set exactly one of them"
      )
    on_demand = on_demand and jax.process_count() > 1
    if self.task not in pipeline.TASKS and registered_tasks.has(self.task):
      return registered_tasks.load_examples(
        self.task, self.split, limit=self.limit
      )
    if self.task:
      return pipeline.load_examples(
        self.task,
        self.split,
        cache_dir=self.data_dir,
        limit=self.limit,
        on_demand=on_demand,
      )
    rows = record_files.open_records(
      records.Example,
      self.examples_file,
      on_demand=on_demand,
      quarantine=jsonl.of_run(),
    )
    if not rows:
      raise ValueError(
        f"{self.examples_file} is empty; it needs at least one row"
      )
    return rows[: self.limit] if self.limit else rows

  def other_split(self, split: str, limit: int) -> ExampleSource:
    """Returns the source of another split of the task (or the same file)."""
    return ExampleSource(
      data_dir=self.data_dir,
      examples_file=self.examples_file,
      task=self.task,
      split=split,
      limit=limit,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTData(ExampleSource):
  """Examples to fine-tune on, and held-out ones.

  Attributes:
    validation_split: split of the task whose rows are held out.
    validation_rows: number of held-out rows. The last rows of a file are held
      out and not trained on.
    sequence: lengths and constant text of a row; None: those of the model that
      training starts from.
    context_weight: loss weight of each context token; 0 trains on responses
      only.
  """

  validation_split: str = "validation"
  validation_rows: validation.NonNegativeInt = 256
  sequence: converters.SequenceConfig | None = None
  context_weight: validation.NonNegativeFloat = 0.0

  def read_splits(
    self,
  ) -> tuple[Sequence[records.Example], Sequence[records.Example]]:
    """Returns training and validation examples.

    Raises:
      ValueError: if no row of a file is left to train on; see also `read`.
    """
    rows = self.read(on_demand=True)
    if not self.examples_file:
      held_out = self.other_split(self.validation_split, self.validation_rows)
      return rows, held_out.read()
    cut = len(rows) - self.validation_rows
    if cut < 1:
      raise ValueError(
        f"{self.examples_file} has {len(rows)} rows and "
        f"SFTData.validation_rows is {self.validation_rows}; no row is left to "
        "train on"
      )
    return rows[:cut], rows[cut:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptData(ExampleSource):
  """Contexts to train a policy on, and contexts to validate it on.

  Attributes:
    validation_split: split of the task that validation reads. A file serves
      both training and validation.
    validation_rows: number of validation contexts.
  """

  split: str = "rl"
  validation_split: str = "validation"
  validation_rows: validation.NonNegativeInt = 128

  def read_splits(
    self,
  ) -> tuple[Sequence[records.Example], Sequence[records.Example]]:
    """Returns training and validation examples; see `read`."""
    validation = self.other_split(self.validation_split, self.validation_rows)
    return self.read(on_demand=True), validation.read()


def example_encoder(
  tokenizer: protocols.Tokenizer, sequence: converters.SequenceConfig
) -> Encode:
  """Returns encode(examples) -> (TokenBatch, counts of truncated texts)."""
  return lambda rows: converters.encode_examples(rows, tokenizer, sequence)


def prompt_encoder(
  tokenizer: protocols.Tokenizer, sequence: converters.SequenceConfig
) -> Encode:
  """Returns encode(examples) -> (PromptBatch, count of truncated contexts)."""

  def encode(rows):
    contexts = [row.context for row in rows]
    prompts, cut = converters.encode_prompts(contexts, tokenizer, sequence)
    return prompts, {"cut_contexts": cut}

  return encode


class HeldRows:
  """Rows that are already encoded."""

  def __init__(self, arrays: protocols.Batch):
    self.arrays = arrays

  def __len__(self) -> int:
    return len(jax.tree.leaves(self.arrays)[0])

  def batch(self, mesh: jax.sharding.Mesh, rows: np.ndarray) -> protocols.Batch:
    """Returns the rows with these indices [B], on the mesh."""
    return mesh_lib.put_batch(mesh, converters.take(self.arrays, rows))


class TrainingRows:
  """Records with their encoder.

  Every row is encoded once before the first step, so that bad rows are found
  before training. Each of several processes encodes its share.

  Attributes:
    counts: counts of the encoder over all rows.
    arrays: all encoded rows; None if there are several processes.

  Raises:
    ValueError: if a row is bad; names it.
  """

  def __init__(self, rows: Sequence[object], encode: Encode):
    self._rows = rows
    self._encode = encode
    self._held = None
    if jax.process_count() == 1:
      arrays, counts = encode(rows)
      self._held = HeldRows(arrays)
      self.counts = dict(counts)
    else:
      self.counts = _counts_together(rows, encode)

  @property
  def arrays(self) -> protocols.Batch | None:
    return self._held and self._held.arrays

  def __len__(self) -> int:
    return len(self._rows)

  def batch(self, mesh: jax.sharding.Mesh, rows: np.ndarray) -> protocols.Batch:
    """Returns the rows with these indices [B], on the mesh."""
    if self._held is not None:
      return self._held.batch(mesh, rows)
    held = mesh_lib.addressable_rows(mesh, len(rows))
    part, _ = self._encode([self._rows[i] for i in rows[held]])
    if isinstance(part, batches.PromptBatch):  # Rows seed their samples.
      part = part.replace(row=rows[held].astype(np.int32))

    def spread(x):
      # `mesh.put_batch` does not read the other rows.
      whole = np.zeros((len(rows), *x.shape[1:]), x.dtype)
      whole[held] = x
      return whole

    return mesh_lib.put_batch(mesh, jax.tree.map(spread, part))

  def at_step(
    self,
    step: int,
    mesh: jax.sharding.Mesh,
    train: loop.TrainConfig,
    name: str,
  ) -> protocols.Batch:
    """Returns the batch of a step; see `converters.epoch_rows`."""
    rows = converters.epoch_rows(
      num_rows=len(self),
      batch_size=train.batch_size,
      seed=train.seed,
      name=name,
      step=step,
    )
    return self.batch(mesh, rows)


def _counts_together(rows: Sequence[object], encode: Encode) -> dict[str, int]:
  """Returns the encoder's counts of all rows; each process encodes a share."""
  total: dict[str, int] = {}
  count, index = jax.process_count(), jax.process_index()
  mine = range(index, len(rows), count)
  for begin in range(0, len(mine), _CHUNK):
    _, counts = encode([rows[i] for i in mine[begin : begin + _CHUNK]])
    for name, number in counts.items():
      total[name] = total.get(name, 0) + number
  return processes.sum_of_all(total)
