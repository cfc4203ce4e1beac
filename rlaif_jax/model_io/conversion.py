# SPDX-License-Identifier: Apache-2.0
"""Loads public checkpoints as language models, and writes models for others.

A public checkpoint is a Hugging Face directory, a GGUF file or a T5X
checkpoint. Parameters are read one at a time and put straight on the mesh;
nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from typing import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
import numpy as np

from rlaif_jax.core import folders
from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.data import converters
from rlaif_jax.engine import checkpoint as checkpoint_lib
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.interop import names
from rlaif_jax.interop import sources
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from rlaif_jax.text import chat as chat_lib
from rlaif_jax.text import gguf_vocabulary
from rlaif_jax.text import tokenizers

DTYPES = ("auto", "float32", "bfloat16")

# Lengths of a model that comes without any.
DEFAULT_SEQUENCE = converters.SequenceConfig(max_context=512, max_response=128)


def load(
  path: str,
  mesh: jax.sharding.Mesh,
  *,
  model: architectures.Config | None = None,
  compute_dtype: str = "float32",
  tokenizer_dir: str = "",
  sequence: converters.SequenceConfig | None = None,
  system: str = "",
  dtype: str = "auto",
) -> pretrained.PretrainedModel:
  """Loads a language model from a finished model or a public checkpoint.

  Args:
    path: directory of a finished model (with model.json), a Hugging Face
      directory, a .gguf file, or a T5X checkpoint.
    mesh: devices that the parameters are placed on.
    model: config of a T5X checkpoint, which does not store its sizes.
    compute_dtype: dtype of the activations of a public checkpoint.
    tokenizer_dir: see `from_checkpoint`, like the following ones.
    sequence: lengths and constant text.
    system: system message of the chat template.
    dtype: dtype of the parameters.

  Raises:
    ValueError: if `path` holds no model that is supported, or a part of one.
  """
  if (pathlib.Path(path) / "model.json").is_file():
    return pretrained.load(path, "language", mesh)
  checkpoint = sources.open_source(
    path, model=model, compute_dtype=compute_dtype
  )
  return from_checkpoint(
    checkpoint,
    mesh,
    tokenizer_dir=tokenizer_dir,
    sequence=sequence,
    system=system,
    dtype=dtype,
  )


def from_checkpoint(
  checkpoint: sources.Checkpoint,
  mesh: jax.sharding.Mesh,
  *,
  tokenizer_dir: str = "",
  sequence: converters.SequenceConfig | None = None,
  system: str = "",
  dtype: str = "auto",
) -> pretrained.PretrainedModel:
  """Reads an open public checkpoint, and closes it.

  Args:
    checkpoint: opened by `sources.open_source`.
    mesh: devices that the parameters are placed on.
    tokenizer_dir: directory of the tokenizer, if it is not with the weights.
    sequence: lengths, and the constant text around a context. The chat
      template of an instruct model is put around that text.
    system: system message of the chat template; "" uses the template's own.
    dtype: dtype of the parameters; "auto" keeps bfloat16 and converts every
      other dtype to float32.

  Raises:
    ValueError: if the tokenizer is missing or does not fit the model, or a
      tensor is missing or has another shape.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype is {dtype!r}; use one of {DTYPES}")
  tokenizer, chat = read_text_files(checkpoint, tokenizer_dir, system)
  sequence = sequence or DEFAULT_SEQUENCE
  sequence = dataclasses.replace(
    sequence,
    prefix=chat[0] + sequence.prefix,
    suffix=sequence.suffix + chat[1],
  )
  with parsing.naming(checkpoint.directory):
    converters.check_fits(
      sequence,
      tokenizer,
      vocab_size=checkpoint.config.vocab_size,
      max_length=checkpoint.config.max_length,
    )
  config = checkpoint.config
  if isinstance(config, t5.T5Config) and (
    tokenizer.vocab_size < config.vocab_size
  ):
    config = dataclasses.replace(config, num_pieces=tokenizer.vocab_size)
  params = read_params(checkpoint, mesh, dtype)
  checkpoint.source.close()  # A mapped file counts as memory.
  return pretrained.PretrainedModel(
    directory=checkpoint.directory,
    name=checkpoint.name,
    config=config,
    sequence=sequence,
    tokenizer=tokenizer,
    chat=chat,
    functions=pretrained.language_model(config, mesh),
    params=params,
    step=checkpoint.step,
  )


def read_params(
  checkpoint: sources.Checkpoint, mesh: jax.sharding.Mesh, dtype: str
) -> PyTree[jax.Array]:
  """Returns the parameter tree of a checkpoint, sharded over the mesh."""
  functions = architectures.language(checkpoint.config)
  with parsing.naming(checkpoint.directory):
    like = names.flatten(mesh_lib.abstract_params(functions.init, mesh))
    checkpoint.check({path: leaf.shape for path, leaf in like.items()})
  progress = metrics.Progress("load", len(like), unit="tensors")
  flat = {}
  for path, array in checkpoint.read():
    kind = jnp.float32
    if dtype == "bfloat16" or (dtype == "auto" and array.dtype == jnp.bfloat16):
      kind = jnp.bfloat16
    # No one else refers to the array, so a CPU device may use its memory.
    array = np.asarray(array, dtype=kind)
    flat[path] = jax.device_put(array, like[path].sharding, may_alias=True)
    progress.update(len(flat))
  return names.unflatten(flat)


def read_text_files(
  checkpoint: sources.Checkpoint, tokenizer_dir: str, system: str
) -> tuple[tokenizers.FileTokenizer, tuple[str, str]]:
  """Returns the tokenizer, and the text before and after a user message.

  Both texts are empty for a model without a chat template.

  Raises:
    ValueError: if there is no tokenizer with the weights and none is given.
  """
  source = tokenizer_dir or checkpoint.directory
  with (
    contextlib.ExitStack() as stack,
    tempfile.TemporaryDirectory() as folder,
    parsing.naming(source),
    _in_place_of(folder, source),
  ):
    if not tokenizer_dir and checkpoint.metadata is not None:
      gguf_vocabulary.write_tokenizer(checkpoint.metadata, folder)
    else:
      for name, content in tokenizers.tokenizer_files(source).items():
        jsonl.write_bytes(pathlib.Path(folder) / name, content)
      with inputs.recording(None):
        drop_tokens_without_rows(folder, checkpoint.config.vocab_size)
    stack.enter_context(inputs.recording(None))  # The copies are no inputs.
    tokenizer = tokenizers.load_tokenizer(folder)
    template = chat_lib.load(folder)
    if template is None:
      return tokenizer, ("", "")
    return tokenizer, chat_lib.parts(
      template,
      bos=tokenizer.bos_text,
      eos=tokenizer.eos_text,
      system=system,
      drop_bos=tokenizer.bos_id is not None,
    )


@contextlib.contextmanager
def _in_place_of(copy: str, source: str) -> Iterator[None]:
  """Names the source in errors about a temporary copy of its files."""
  try:
    yield
  except ValueError as error:
    raise ValueError(str(error).replace(copy, source)) from error


def drop_tokens_without_rows(directory: str, rows: int) -> None:
  """Removes special tokens whose ids are past the embedding table.

  The text models of Gemma 3 come with an image token, for which their table
  has no row. No text is encoded to it.
  """
  path = pathlib.Path(directory) / "tokenizer.json"
  if not path.exists():
    return
  values = parsing.read_json(path)
  added = values.get("added_tokens") or []
  with parsing.naming(path):
    kept = [t for t in added if t["id"] < rows or not t.get("special")]
  if len(kept) < len(added):
    values["added_tokens"] = kept
    jsonl.write_text(path, json.dumps(values, ensure_ascii=False))


def export(
  model: pretrained.PretrainedModel, directory: str, layout: str
) -> None:
  """Writes a finished model in a public layout, dtypes unchanged.

  Args:
    model: a model that was loaded from a directory.
    directory: written beside it and renamed at the end. A model that this
      library wrote there before is replaced.
    layout: "hf", "t5x" or "t5x_scanned".

  Raises:
    ValueError: if the layout has no such architecture, or the directory holds
      the model itself or anything that this library did not write.
  """
  folders.check_apart(model.directory, directory)
  dtypes = names.flatten(checkpoint_lib.stored_dtypes(model.directory))

  def arrays() -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in names.flatten(model.params).items():
      yield path, np.asarray(leaf).astype(dtypes[path], copy=False)

  tokenizer = model.tokenizer
  ends = list(tokenizer.eos_ids)
  tokens = {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": ends[0] if len(ends) == 1 else ends,
  }
  is_t5 = isinstance(model.config, t5.T5Config)
  with folders.replaced(directory) as partial:
    sources.write(
      str(partial),
      layout,
      model.config,
      arrays(),
      tokens=tokens,
      step=model.step,
    )
    for name, content in tokenizer.files.items():
      if is_t5 and layout == "hf" and name == "tokenizer.model":
        name = "spiece.model"  # The name that transformers' T5Tokenizer has.
      jsonl.write_bytes(partial / name, content)
