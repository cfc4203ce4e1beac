# SPDX-License-Identifier: Apache-2.0
"""Opens and writes public checkpoints of all layouts.

The layout is detected from the path. Configuration, names and shapes are
checked before tensors are read.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import types
from typing import Callable, Iterable, Iterator, Mapping

import numpy as np

from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.interop import decoder_tables
from rlaif_jax.interop import gguf_files
from rlaif_jax.interop import gguf_tables
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.interop import t5_tables
from rlaif_jax.interop import t5x_files
from rlaif_jax.interop import t5x_scanned
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.models import t5
from rlaif_jax.models import t5_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A public checkpoint that is open and not yet read.

  Attributes:
    name: name of the model.
    layout: "gguf", "hf" or "t5x".
    directory: path of the checkpoint.
    config: sizes of the model.
    rules: rule of every parameter.
    source: tensors.
    metadata: metadata of a GGUF file, with its tokenizer; else None.
    ignored: returns whether a tensor is redundant.
    shapes: shapes of our parameters, after `check`.
    step: number of training steps, if it is known.
  """

  name: str
  layout: str
  directory: str
  config: architectures.Config
  rules: list[names.Rule]
  source: protocols.TensorSource
  metadata: names.JsonObject | None = None
  ignored: Callable[[str], bool] = lambda name: False
  shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  step: int = 0

  def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the tensors; see `names.check`. Call it before `read`."""
    if self.layout == "t5x":  # Their names are ours.
      self.rules[:] = [names.Rule(name, name) for name in wanted]
    names.check(
      self.rules,
      wanted,
      self.source.shapes(),
      where=self.directory,
      ignored=self.ignored,
    )
    self.shapes.update(wanted)

  def read(self) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters by name.

    Raises:
      ValueError: a tensor is damaged or not finite; names it and the file.
    """
    with parsing.naming(self.directory):
      yield from names.fill(self.rules, self.shapes, self.source)


def open_source(
  path: str,
  *,
  model: architectures.Config | None = None,
  compute_dtype: str = "float32",
) -> Checkpoint:
  """Opens a public checkpoint.

  Args:
    path: a .gguf file, a Hugging Face directory, or a T5X checkpoint.
    model: sizes, for T5X checkpoints, which do not store them.
    compute_dtype: dtype of the returned config.

  Raises:
    ValueError: no known checkpoint, or a truncated one.
  """
  where = pathlib.Path(path)
  if not where.exists():
    raise ValueError(f"convert.source is {path}, which does not exist")
  if where.is_file():
    found = _open_gguf(where)
  elif (where / "config.json").is_file():
    found = _open_hf(where)
  else:  # Raises an error that lists the known layouts.
    found = _open_t5x(where, model)
  config = dataclasses.replace(found.config, dtype=compute_dtype)
  return dataclasses.replace(found, config=config)


def _open_gguf(path: pathlib.Path) -> Checkpoint:
  source = gguf_files.GGUFSource(path)
  factors = "rope_freqs.weight"
  with parsing.naming(path):
    config = gguf_tables.config_from_gguf(source.metadata, source.shapes())
    _check_layers(config, source)
    if factors in source.shapes():
      names.check_finite(factors, source.read(factors))
      config = gguf_tables.with_rope_factors(config, source.read(factors))
  return Checkpoint(
    name=str(source.metadata.get("general.name", path.stem)),
    layout="gguf",
    directory=str(path),
    config=config,
    rules=gguf_tables.rules(config),
    source=source,
    metadata=source.metadata,
    ignored=lambda name: name == factors,
  )


def _open_hf(path: pathlib.Path) -> Checkpoint:
  file = parsing.inside(path, "config.json")
  values = parsing.read_json(file)
  source = safetensors_files.SafetensorsSource(path)
  is_t5 = values.get("model_type") == "t5"
  tables = t5_tables if is_t5 else decoder_tables
  with parsing.naming(file):
    if is_t5:
      has_head = "lm_head.weight" in source.shapes()
      config = t5_tables.config_from_hf(values, has_head=has_head)
    else:
      config = decoder_tables.config_from_hf(values)
    _check_layers(config, source)

  def ignored(name: str) -> bool:
    # Copies of a tied table, and buffers in old files.
    tied = config.tie_embeddings and name == "lm_head.weight"
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return tied or name in copies or name.endswith("rotary_emb.inv_freq")

  return Checkpoint(
    name=path.name,
    layout="hf",
    directory=str(path),
    config=config,
    rules=tables.rules(config),
    source=source,
    ignored=ignored,
  )


def _check_layers(
  config: architectures.Config, source: protocols.TensorSource
) -> None:
  """Checks that there is a tensor for each layer, before a table is built.

  Raises:
    ValueError: there are more layers than tensors.
  """
  layers = config.num_layers + getattr(config, "num_decoder_layers", 0)
  if layers > len(source.shapes()):
    raise ValueError(
      f"the configuration has {layers} layers, and there are "
      f"{len(source.shapes())} tensors; it is that of another model"
    )


def _open_t5x(
  path: pathlib.Path, config: architectures.Config | None
) -> Checkpoint:
  source = t5x_files.open_checkpoint(path)
  if not isinstance(config, t5.T5Config):
    raise ValueError(
      f"{path} is a T5X checkpoint, which does not store its sizes; add "
      "--gin_file=gin_configs/recipes/t5x_convert.gin "
      "--gin_file=gin_configs/models/t5_1_1_base.gin (or another size)"
    )
  if not config.activation:
    raise ValueError(
      f"{path} is a T5X checkpoint, which does not store its activation; set "
      "T5Config.activation and T5Config.gated as its mlp_activations are: "
      '"gelu" and True for T5 1.1, "relu" and False for T5 1.0, or one of '
      f"{t5_config.ACTIVATIONS}"
    )
  return Checkpoint(
    name=path.name,
    layout="t5x",
    directory=str(path),
    config=config,
    rules=[],
    source=(
      t5x_scanned.ScannedSource(source, _layers(config))
      if t5x_scanned.is_scanned(source.shapes())
      else source
    ),
    step=source.step or 0,
  )


def _layers(config: t5.T5Config) -> dict[str, int]:
  return {"encoder": config.num_layers, "decoder": config.num_decoder_layers}


def _tables(config: architectures.Config) -> types.ModuleType:
  is_decoder = isinstance(config, decoder.DecoderConfig)
  return decoder_tables if is_decoder else t5_tables


def hf_rules(config: architectures.Config) -> list[names.Rule]:
  """Returns the rule of every parameter in Hugging Face's layout."""
  return _tables(config).rules(config)


def write(
  directory: str,
  layout: str,
  config: architectures.Config,
  params: Iterable[tuple[str, np.ndarray]],
  *,
  tokens: Mapping[str, object] | None = None,
  step: int = 0,
) -> None:
  """Writes weights and configuration in layout "hf", "t5x" or "t5x_scanned".

  Args:
    directory: folder to write into.
    layout: "hf", "t5x", or T5X's for models with `scan_layers`.
    config: sizes.
    params: our parameters by name.
    tokens: ids of special tokens for config.json, such as eos_token_id.
    step: number of training steps, of T5X's layout.

  Raises:
    ValueError: no public model computes what this config does, or it is not
      a T5 model and the layout is T5X's.
  """
  if layout.startswith("t5x"):
    if not isinstance(config, t5.T5Config):
      raise ValueError("only T5 models can be written in T5X's layout")
    if layout == "t5x_scanned":
      params = t5x_scanned.stacked(params, _layers(config))
    t5x_files.write_legacy(directory, step, params)
    return
  tables = _tables(config)
  values = {**tables.config_to_hf(config), **(tokens or {})}
  by_name = {rule.ours: rule for rule in tables.rules(config)}
  bytes_of: dict[str, int] = collections.defaultdict(int)

  def tensors() -> Iterator[tuple[str, np.ndarray]]:
    for name, array in params:
      bytes_of[array.dtype.name] += array.nbytes
      yield by_name[name].theirs, names.to_theirs(array, by_name[name])

  safetensors_files.write(directory, tensors(), shard_bytes=1 << 30)
  # transformers 5 reads `dtype`, earlier ones `torch_dtype`.
  most = max(bytes_of, key=bytes_of.get)
  values |= {"dtype": most, "torch_dtype": most}
  text = json.dumps(values, indent=2, sort_keys=True) + "\n"
  (pathlib.Path(directory) / "config.json").write_text(text, "utf-8")
