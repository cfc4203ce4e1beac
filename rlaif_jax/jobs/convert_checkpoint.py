# SPDX-License-Identifier: Apache-2.0
"""Converts a public checkpoint to a finished model, or a finished model back.

Reads a Hugging Face directory, a GGUF file or a T5X checkpoint. A finished
model is written in the layout of Hugging Face or of T5X.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Literal

import jax

from rlaif_jax.core import folders
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.interop import sources
from rlaif_jax.model_io import conversion
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import architectures

FORMATS = ("ours", "hf", "t5x", "t5x_scanned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtypeConfig(validation.Validated):
  """Dtypes of a converted model.

  Attributes:
    param_dtype: dtype of the parameters; "auto" keeps bfloat16 and converts
      every other dtype to float32.
    compute_dtype: dtype of the activations.
  """

  param_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
  compute_dtype: validation.FloatDtype = "float32"


def run(
  *,
  output_dir: str,
  source: str,
  format: Literal["ours", "hf", "t5x", "t5x_scanned"] = "ours",
  model: architectures.Config | None = None,
  tokenizer_dir: str = "",
  sequence: converters.SequenceConfig | None = None,
  system: str = "",
  dtypes: DtypeConfig = DtypeConfig(),
  mesh: str = "data:-1",
  name: str = "",
) -> records.Row:
  """Writes `output_dir`/model.

  Args:
    output_dir: directory that receives the model.
    source: a Hugging Face directory, a .gguf file, a T5X checkpoint, or the
      directory of a finished model.
    format: layout to write: "ours"; or "hf", "t5x", or "t5x_scanned" (T5X's
      `scan_layers`) from a finished model.
    model: config of a T5X checkpoint, which does not store its sizes.
    tokenizer_dir: directory of the tokenizer, if it is not with the weights.
    sequence: lengths, and the constant text around a context. The chat
      template of an instruct model is put around that text.
    system: system message of the chat template; "" uses the template's own.
    dtypes: dtypes of the parameters and of the activations.
    mesh: sizes of the mesh axes, such as "data:-1"; parameters are sharded.
    name: name of the model; "" uses the source's.
  """
  begin = time.monotonic()
  if format not in FORMATS:
    raise ValueError(f"convert.format is {format!r}; use one of {FORMATS}")
  target = f"{output_dir}/model"
  for path in filter(None, (source, tokenizer_dir)):
    folders.check_apart(path, target)
  folders.check_replaceable(target)
  devices = mesh_lib.make_mesh(mesh)
  if format != "ours":
    finished = pretrained.load(source, "language", devices)
    conversion.export(finished, target, format)
    return {"model": target, "layout": format}
  checkpoint = sources.open_source(
    source, model=model, compute_dtype=dtypes.compute_dtype
  )
  loaded = conversion.from_checkpoint(
    checkpoint,
    devices,
    tokenizer_dir=tokenizer_dir,
    sequence=sequence,
    system=system,
    dtype=dtypes.param_dtype,
  )
  dataclasses.replace(loaded, name=name or loaded.name).save(target)
  return {
    "model": target,
    "parameters": sum(
      math.prod(x.shape) for x in jax.tree.leaves(loaded.params)
    ),
    "source_layout": checkpoint.layout,
    "vocabulary": loaded.tokenizer.vocab_size,
    "end_tokens": list(loaded.tokenizer.eos_ids),
    "chat": bool(loaded.chat[1]),
    "convert_seconds": round(time.monotonic() - begin, 1),
    "next": (
      "python -m rlaif_jax.main --job=sample "
      "--gin_file=gin_configs/recipes/smollm2_sample.gin "
      f"--policy_dir={target} --data_dir=DATA --output_dir=RESPONSES"
    ),
  }
