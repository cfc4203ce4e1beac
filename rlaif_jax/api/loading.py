# SPDX-License-Identifier: Apache-2.0
"""Opens a model: one of this library, or a public checkpoint."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.model_io import conversion
from rlaif_jax.model_io import pretrained


def load(
  path: str | os.PathLike,
  *,
  mesh: jax.sharding.Mesh | str | None = None,
  placement: compute_lib.Placement = compute_lib.PLAIN,
  **options: Any,
) -> pretrained.PretrainedModel:
  """Loads a language model, a reward model or an ensemble.

  Args:
    path: directory of a finished model (or of the run that wrote it), a
      Hugging Face directory, a .gguf file, or a T5X checkpoint.
    mesh: devices, or the sizes of mesh axes such as "data:-1,model:4"; None
      uses the first device.
    placement: sharding and dtype of the parameters of a finished model.
    **options: arguments of `model_io.conversion.load` for a public checkpoint,
      such as `sequence`, `tokenizer_dir` or `dtype`.

  Raises:
    ValueError: if `path` holds no supported model.
  """
  if mesh is None:
    mesh = mesh_lib.make_mesh("data:1", jax.devices()[:1])
  elif isinstance(mesh, str):
    mesh = mesh_lib.make_mesh(mesh)
  for directory in (pathlib.Path(path), pathlib.Path(path) / "model"):
    if (directory / "model.json").is_file():
      if options:
        raise ValueError(
          f"{directory} is a finished model; it takes none of {sorted(options)}"
        )
      kind = checkpoint.read_description(str(directory))["kind"]
      return pretrained.load(str(directory), kind, mesh, placement)
  return conversion.load(str(path), mesh, **options)
