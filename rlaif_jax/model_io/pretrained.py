# SPDX-License-Identifier: Apache-2.0
"""What jobs share: finished models by directory, and files of examples.

A finished model's directory holds params, model.json and its tokenizer's
files; its `config` and `sequence` are those it was trained with.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Mapping, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import pipeline
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.labeling import backends
from rlaif_jax.models import architectures
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
  """A finished model: its functions, parameters and what it reads.

  `chat` is the text around a user message of an instruct model (empty texts
  for others); `directory` is where the model came from.
  """

  directory: str
  name: str
  config: architectures.Config
  sequence: converters.SequenceConfig
  tokenizer: tokenizers.FileTokenizer
  chat: tuple[str, str]
  functions: Any  # protocols.LanguageModel or protocols.ScalarModel
  params: Any
  ensemble: ensemble_lib.EnsembleConfig | None = None  # of several members

  def backend(self, progress: Any = None) -> backends.FlaxBackend:
    """This language model as one that answers a judge."""
    return backends.FlaxBackend(
      self.functions,
      self.params,
      self.tokenizer,
      name=self.name,
      chat=self.chat,
      progress=progress,
    )


def load(
  directory: str,
  kind: str,
  mesh: jax.sharding.Mesh,
  placement: mesh_lib.Placement = mesh_lib.PLAIN,
) -> Loaded:
  """Loads a finished model onto the mesh.

  Its kind is "language", "scalar", or "ensemble" of scalars.

  Raises:
    ValueError: nothing finished there, another kind, or another vocabulary.
  """
  description = checkpoint.read_description(directory)
  if description["kind"] != kind:
    raise ValueError(
      f"{directory} holds a {description['kind']} model and this job needs a "
      f"{kind} one (train_sft and convert make language models, train_reward "
      "scalar ones, train_ensemble ensembles)"
    )
  architecture = architectures.ARCHITECTURES[description["architecture"]]
  config = records.from_row(architecture.config, description["config"])
  tokenizer = tokenizers.load_tokenizer(directory)
  if tokenizer.fingerprint != description["vocabulary"]:
    raise ValueError(
      f"{directory}: the vocabulary there is {tokenizer.fingerprint} and the "
      f"model was saved with {description['vocabulary']}; put the original "
      "tokenizer back"
    )
  sequence = records.from_row(
    converters.SequenceConfig, description["sequence"]
  )
  make = architecture.language if kind == "language" else architecture.scalar
  how = architectures.Execution(split_by=mesh_lib.activation_sharding(mesh))
  functions = make(config, how)
  ensemble = None
  if kind == "ensemble":
    ensemble = records.from_row(
      ensemble_lib.EnsembleConfig, description["ensemble"]
    )
    like = ensemble_shapes(functions, ensemble, mesh, placement)
  else:
    like = mesh_lib.abstract_params(functions.init, mesh, placement)
  return Loaded(
    directory=directory,
    name=description["name"],
    config=config,
    sequence=sequence,
    tokenizer=tokenizer,
    chat=tuple(description["chat"]),
    functions=functions,
    params=checkpoint.load_params(f"{directory}", like),
    ensemble=ensemble,
  )


def ensemble_shapes(
  functions: protocols.ScalarModel,
  ensemble: ensemble_lib.EnsembleConfig,
  mesh: jax.sharding.Mesh,
  placement: mesh_lib.Placement = mesh_lib.PLAIN,
) -> Any:
  """Shapes and shardings of an ensemble with a shared trunk.

  The trunk is laid out as in one model, and members are whole everywhere.
  """
  whole = mesh_lib.abstract_params(functions.init, mesh, placement)
  shapes = jax.eval_shape(
    lambda key: ensemble_lib.init(functions, ensemble, key),
    jax.random.key(0),
  )
  members = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      jnp.dtype(placement.dtype),
      sharding=mesh_lib.replicated(mesh),
    ),
    shapes["members"],
  )
  return {"shared": {"decoder": whole["decoder"]}, "members": members}


def part_of(wanted: Any, tree: Any) -> Any:
  """The entries of a tree that another has: no output layer in a trunk."""
  if not isinstance(wanted, Mapping):
    return tree
  return {name: part_of(wanted[name], tree[name]) for name in wanted}


def trunk_of(start: Loaded, shardings: Any) -> Any:
  """A copy of a language model's trunk, laid out like `shardings`."""
  return jax.tree.map(
    lambda x, place: jax.device_put(jnp.copy(x), place),
    part_of(shardings, start.params),
    shardings,
  )


def save(
  directory: str,
  params: Any,
  *,
  name: str,
  kind: str,
  config: architectures.Config,
  sequence: converters.SequenceConfig,
  tokenizer: tokenizers.FileTokenizer,
  chat: tuple[str, str] = ("", ""),
) -> None:
  """Writes a finished model; model.json comes last and makes it one."""
  description = _description(name, kind, config, sequence, chat)
  _write(directory, params, description, tokenizer)


def save_like(
  directory: str,
  params: Any,
  start: Loaded,
  *,
  name: str,
  kind: str,
  ensemble: ensemble_lib.EnsembleConfig | None = None,
) -> None:
  """Writes a finished model that reads what `start` reads."""
  own = (start.config, start.sequence, start.chat)
  description = _description(name, kind, *own)
  if ensemble is not None:
    description["ensemble"] = dataclasses.asdict(ensemble)
  _write(directory, params, description, start.tokenizer)


def _description(name, kind, config, sequence, chat) -> dict[str, Any]:
  return {
    "name": name,
    "kind": kind,
    "architecture": architectures.name_of(config),
    "config": dataclasses.asdict(config),
    "sequence": dataclasses.asdict(sequence),
    "chat": chat,
  }


def _write(directory, params, description, tokenizer) -> None:
  checkpoint.save_model(
    pathlib.Path(directory),
    params,
    {**description, "vocabulary": tokenizer.fingerprint},
    files=tokenizer.files,
  )


def apart(model: Loaded) -> tuple[Any, Loaded]:
  """A model's parameters, and what is known of it without them.

  Who gives the parameters away (training does) keeps no second model on the
  devices.
  """
  return model.params, dataclasses.replace(model, params=None)


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
  on_demand: bool = False,
) -> Sequence[records.Example]:
  """Examples of a JSONL file, or of a task's split when no file is named.

  `on_demand`: of several processes each reads, of these rows, only those that
  it asks for; see `jsonl.RecordsOnDemand`.

  Raises:
    ValueError: both or neither are named, or there are no rows.
  """
  if bool(examples_file) == bool(task):
    raise ValueError(
      f"examples_file is {examples_file!r} and task is {task!r}; name exactly "
      "one of them"
    )
  on_demand = on_demand and jax.process_count() > 1
  if task:
    return pipeline.load_examples(
      task, split, cache_dir=data_dir, limit=limit, on_demand=on_demand
    )
  rows = jsonl.open_records(records.Example, examples_file, on_demand=on_demand)
  if not rows:
    raise ValueError(f"{examples_file} is empty; it needs at least one row")
  return rows[:limit] if limit else rows
