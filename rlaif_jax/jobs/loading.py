# SPDX-License-Identifier: Apache-2.0
"""What jobs share: finished models by directory, and files of examples.

A finished model's directory holds params, model.json and tokenizer.model; its
`config` and `sequence` are those it was trained with.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import pipeline
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
  """A finished model: its functions, parameters and what it reads."""

  name: str
  config: decoder.DecoderConfig
  sequence: converters.SequenceConfig
  tokenizer: protocols.Tokenizer
  functions: Any  # protocols.LanguageModel or protocols.ScalarModel
  params: Any


def load(directory: str, kind: str, mesh: jax.sharding.Mesh) -> Loaded:
  """Loads a finished model of kind "decoder" or "scalar" onto the mesh.

  Raises:
    ValueError: nothing finished there, another kind, or another vocabulary.
  """
  description = checkpoint.read_description(directory)
  if description["kind"] != kind:
    raise ValueError(
      f"{directory} holds a {description['kind']} model and this job needs a "
      f"{kind} one (train_sft makes decoder models, train_reward scalar ones)"
    )
  config = checkpoint.config_from_description(
    decoder.DecoderConfig, description
  )
  tokenizer = tokenizers.load_tokenizer(f"{directory}/tokenizer.model")
  sequence = converters.SequenceConfig(**description["sequence"])
  converters.check_fits(
    sequence,
    tokenizer,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
  )
  functions = (decoder if kind == "decoder" else heads).functions(config)
  like = abstract_params(functions.init, mesh)
  return Loaded(
    name=description["name"],
    config=config,
    sequence=sequence,
    tokenizer=tokenizer,
    functions=functions,
    params=checkpoint.load_params(f"{directory}", like),
  )


def abstract_params(init: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes and shardings of a model's parameters, without making them."""
  boxed = jax.eval_shape(init, jax.random.key(0))
  shardings = mesh_lib.param_shardings(mesh, boxed)
  return jax.tree.map(
    lambda box, s: jax.ShapeDtypeStruct(
      box.value.shape, box.value.dtype, sharding=s
    ),
    boxed,
    shardings,
    is_leaf=lambda x: hasattr(x, "names"),
  )


def save(
  directory: str,
  *,
  name: str,
  kind: str,
  params: Any,
  config: decoder.DecoderConfig,
  sequence: converters.SequenceConfig,
  tokenizer_path: str,
) -> None:
  """Writes a finished model; model.json comes last and makes it one."""
  target = pathlib.Path(directory)
  checkpoint.save_model(
    target,
    params,
    {
      "name": name,
      "kind": kind,
      "config": dataclasses.asdict(config),
      "sequence": dataclasses.asdict(sequence),
      "hash": checkpoint.tree_hash(params),
    },
    files={"tokenizer.model": tokenizer_path},
  )


def copy_params(params: Any) -> Any:
  """A copy that may be donated while the original stays."""
  return jax.tree.map(jnp.copy, params)


def load_examples(
  *,
  examples_file: str,
  task: str,
  split: str,
  data_dir: str,
  limit: int,
) -> list[records.Example]:
  """Examples of a JSONL file, or of a task's split when no file is named.

  Raises:
    ValueError: both or neither are named, or there are no rows.
  """
  if bool(examples_file) == bool(task):
    raise ValueError(
      f"examples_file is {examples_file!r} and task is {task!r}; name exactly "
      "one of them"
    )
  if task:
    return pipeline.load_examples(task, split, cache_dir=data_dir, limit=limit)
  rows = jsonl.read_records(records.Example, examples_file)
  if not rows:
    raise ValueError(f"{examples_file} is empty; it needs at least one row")
  return rows[:limit] if limit else rows


def tokenizer_path(data_dir: str) -> str:
  """Where `prepare` puts the vocabulary of a data directory."""
  return str(pathlib.Path(data_dir) / "tokenizer.model")
