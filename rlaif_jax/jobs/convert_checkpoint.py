# SPDX-License-Identifier: Apache-2.0
"""Converts public checkpoints to finished models of ours, and back.

Reads a Hugging Face directory, a GGUF file, a T5X checkpoint, or a finished
model (to write it in a public layout). Parameters pass one at a time, each
straight to its place on the mesh.
"""

from __future__ import annotations

import json
import math
import pathlib
import shutil
import time
from typing import Any, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.data import converters
from rlaif_jax.engine import checkpoint as checkpoint_lib
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.interop import names
from rlaif_jax.interop import sources
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import architectures
from rlaif_jax.text import chat as chat_lib
from rlaif_jax.text import gguf_vocabulary
from rlaif_jax.text import tokenizers

FORMATS = ("ours", "hf", "t5x")
DTYPES = ("auto", "float32", "bfloat16")


def run(
  *,
  output_dir: str,
  source: str,
  format: str = "ours",
  model: architectures.Config | None = None,
  tokenizer_dir: str = "",
  sequence: converters.SequenceConfig | None = None,
  system: str = "",
  dtype: str = "auto",
  compute_dtype: str = "float32",
  mesh: str = "data:-1",
  name: str = "",
) -> dict[str, Any]:
  """Writes `output_dir`/model.

  Args:
    output_dir: where everything goes.
    source: a Hugging Face directory, a .gguf file, a T5X checkpoint, or the
      directory of a finished model.
    format: what to write: "ours", or "hf" or "t5x" from a finished model.
    model: sizes of a T5X checkpoint, which does not say them itself.
    tokenizer_dir: where the tokenizer lies, if not with the weights.
    sequence: lengths, and the text around a context, of the converted policy;
      an instruct model's chat template goes around that.
    system: system message of the chat; "" is what the template says.
    dtype: of the stored parameters; "auto" keeps bfloat16 and makes float32
      of everything else.
    compute_dtype: of the activations when the model runs.
    mesh: devices, such as "data:-1"; each parameter goes to its shards.
    name: of the model; "" takes the source's.
  """
  begin = time.monotonic()
  if format not in FORMATS or dtype not in DTYPES:
    raise ValueError(
      f"convert: format is {format!r} (one of {FORMATS}) and dtype {dtype!r} "
      f"(one of {DTYPES})"
    )
  target = f"{output_dir}/model"
  devices = mesh_lib.make_mesh(mesh)
  if format != "ours":
    start = pretrained.load(source, "language", devices)
    return export(start, target, format)
  # 1. What is it, and is it whole?
  checkpoint = sources.open_source(
    source, model=model, compute_dtype=compute_dtype
  )
  # 2. Its tokenizer and chat template.
  text_dir = prepare_tokenizer(
    checkpoint, tokenizer_dir, f"{output_dir}/tokenizer"
  )
  tokenizer = tokenizers.load_tokenizer(text_dir)
  around = chat_parts(text_dir, tokenizer, system)
  sequence = sequence or converters.SequenceConfig(
    max_context=512, max_response=128
  )
  sequence = converters.SequenceConfig(
    max_context=sequence.max_context,
    max_response=sequence.max_response,
    prefix=around[0] + sequence.prefix,
    suffix=sequence.suffix + around[1],
  )
  converters.check_fits(
    sequence,
    tokenizer,
    vocab_size=checkpoint.config.vocab_size,
    max_length=checkpoint.config.max_length,
  )
  # 3. Parameters, one at a time.
  params, count = place(checkpoint, devices, dtype)
  checkpoint.source.close()  # A mapped file counts as memory.
  pretrained.save(
    target,
    params,
    name=name or checkpoint.name,
    kind="language",
    config=checkpoint.config,
    sequence=sequence,
    tokenizer_dir=text_dir,
    chat=around,
  )
  return {
    "model": target,
    "parameters": count,
    "source_layout": checkpoint.layout,
    "vocabulary": tokenizer.vocab_size,
    "end_tokens": list(tokenizer.eos_ids),
    "chat": bool(around[1]),
    "convert_seconds": round(time.monotonic() - begin, 1),
    "next": (
      "python -m rlaif_jax.main --job=sample "
      "--gin_file=gin_configs/recipes/smollm2_sample.gin "
      f"--policy_dir={target} --data_dir=DATA --output_dir=RESPONSES"
    ),
  }


def place(
  checkpoint: sources.Checkpoint, devices: jax.sharding.Mesh, dtype: str
) -> tuple[Any, int]:
  """All parameters on the mesh, and how many numbers they hold."""
  functions = architectures.language(checkpoint.config)
  like = names.flatten(mesh_lib.abstract_params(functions.init, devices))
  checkpoint.check({path: leaf.shape for path, leaf in like.items()})
  progress = metrics.Progress("convert", len(like), unit="tensors")
  flat = {}
  for path, array in checkpoint.read():
    kind = jnp.float32
    if dtype == "bfloat16" or (dtype == "auto" and array.dtype == jnp.bfloat16):
      kind = jnp.bfloat16
    # Nobody else holds the array, so that a CPU may take its memory over.
    array = np.asarray(array, dtype=kind)
    flat[path] = jax.device_put(array, like[path].sharding, may_alias=True)
    progress.update(len(flat))
  return names.unflatten(flat), sum(math.prod(x.shape) for x in flat.values())


def prepare_tokenizer(
  checkpoint: sources.Checkpoint, given: str, directory: str
) -> str:
  """The directory of the tokenizer's files, made from metadata if need be.

  Raises:
    ValueError: there is no tokenizer with the weights, and none is given.
  """
  shutil.rmtree(directory, ignore_errors=True)
  pathlib.Path(directory).mkdir(parents=True)
  if not given and checkpoint.metadata is not None:
    gguf_vocabulary.write_tokenizer(checkpoint.metadata, directory)
    return directory
  found = tokenizers.tokenizer_files(given or checkpoint.directory)
  for file, path in found.items():
    shutil.copyfile(path, pathlib.Path(directory) / file)
  drop_tokens_without_rows(directory, checkpoint.config.vocab_size)
  return directory


def drop_tokens_without_rows(directory: str, rows: int) -> None:
  """Leaves out special tokens past the embedding table.

  Gemma 3's text models come with the token of an image, for which they have
  no row; nothing that they read as text contains it.
  """
  path = pathlib.Path(directory) / "tokenizer.json"
  if not path.exists():
    return
  values = json.loads(path.read_text("utf-8"))
  added = values.get("added_tokens") or []
  kept = [t for t in added if t["id"] < rows or not t.get("special")]
  if len(kept) < len(added):
    values["added_tokens"] = kept
    jsonl.write_text(path, json.dumps(values, ensure_ascii=False))


def chat_parts(directory: str, tokenizer: Any, system: str) -> tuple[str, str]:
  """Text before and after a user message; empty for a base model."""
  template = chat_lib.load(directory)
  if template is None:
    return "", ""
  return chat_lib.parts(
    template,
    bos=tokenizer.bos_text,
    eos=tokenizer.eos_text,
    system=system,
    drop_bos=tokenizer.bos_id is not None,
  )


def export(
  start: pretrained.PretrainedModel, target: str, layout: str
) -> dict[str, Any]:
  """Writes a finished model in a public layout, its types as they are."""
  dtypes = names.flatten(checkpoint_lib.stored_dtypes(start.directory))

  def arrays() -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in names.flatten(start.params).items():
      yield path, np.asarray(leaf).astype(dtypes[path], copy=False)

  shutil.rmtree(target, ignore_errors=True)
  sources.write(target, layout, start.config, arrays())
  for file, path in tokenizers.tokenizer_files(start.directory).items():
    shutil.copyfile(path, pathlib.Path(target) / file)
  return {"model": target, "layout": layout}
