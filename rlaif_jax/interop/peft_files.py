# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in the files of Hugging Face's PEFT.

A directory has adapter_config.json and adapter_model.safetensors. The latter
has `base_model.model.<module>.lora_A.weight` [r, in] and `.lora_B.weight`
[out, r] for each adapted linear module (after huggingface/peft: LoraConfig,
tuners/lora, utils/save_and_load.py).
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from typing import Sequence

import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import folders
from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.models import lora

_TENSORS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
# Values of init_lora_weights that do not change the base model's weights.
_INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
# Options that compute something other than W + scale a b.
_UNSUPPORTED = (
  *("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save"),
  *("rank_pattern", "alpha_pattern", "layer_replication", "target_parameters"),
  *("trainable_token_indices", "use_qalora", "alora_invocation_tokens"),
  *("arrow_config", "megatron_config"),
)


def save(
  directory: str | os.PathLike,
  adapters: lora.Adapters,
  config: lora.LoraConfig,
  rules: Sequence[names.Rule],
  base: str,
) -> None:
  """Writes adapters that PEFT can load.

  Args:
    directory: written beside it and renamed at the end; an adapter that was
      written there before is replaced.
    adapters: {path: {"a": [in, r], "b": [r, out]}}.
    config: rank, alpha and dtype of the adapters.
    rules: rules of all parameters of the base model. They show whether all
      modules of a name are adapted, or must be listed one by one.
    base: name or path of the base model.

  Raises:
    ValueError: an adapter of a kernel that PEFT has no linear module for, or
      of another rank; or the directory holds files that were not written here.
  """
  by_ours = {rule.ours: rule for rule in rules}
  tensors, modules = {}, []
  for path, adapter in adapters.items():
    rule = by_ours.get(path)
    if rule is None or not rule.inputs or not rule.theirs.endswith(".weight"):
      raise ValueError(
        f"adapter {path}: the base model has no linear module of this name"
      )
    a, b = np.asarray(adapter["a"]), np.asarray(adapter["b"])
    if a.shape[1:] != (config.rank,) or b.shape[:1] != (config.rank,):
      raise ValueError(
        f"adapter {path}: expected rank {config.rank}, found a {a.shape} and "
        f"b {b.shape}"
      )
    module = _module(rule)
    modules.append(module)
    theirs = np.ascontiguousarray(names.to_theirs(b, _matrix(rule)))
    tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
    tensors[f"{_PREFIX}{module}.lora_B.weight"] = theirs
  if not tensors:
    raise ValueError(f"{directory}: adapters is empty")
  text = json.dumps(_description(config, rules, modules, base), indent=2)
  with folders.replaced(directory) as partial:
    safetensors_files.save_file(partial / _TENSORS, tensors)
    (partial / _CONFIG).write_text(text + "\n", "utf-8")


def load(
  directory: str | os.PathLike, rules: Sequence[names.Rule]
) -> tuple[dict[str, dict[str, np.ndarray]], lora.LoraConfig]:
  """Reads a PEFT adapter.

  Args:
    directory: directory of adapter_config.json and adapter_model.safetensors.
    rules: rules of all parameters of the base model.

  Returns:
    Adapters {path: {"a": [in, r], "b": [r, out]}}, and a config whose targets
    are their paths. PEFT's dropout is ignored; rsLoRA's scale alpha / sqrt(r)
    is converted to an alpha.

  Raises:
    ValueError: an unsupported option, an unknown tensor, an A without B or B
      without A, or another rank; names the file and the tensor.
  """
  directory = pathlib.Path(directory)
  file = directory / _TENSORS
  for name in (_CONFIG, _TENSORS):
    inputs.note(directory / name)
  rank, alpha = _read_description(directory / _CONFIG)
  by_module = {_module(rule): rule for rule in rules if rule.inputs}
  tensors = _read_tensors(file)
  found: dict[str, dict[str, np.ndarray]] = {}
  for name, array in tensors.items():
    match = re.fullmatch(re.escape(_PREFIX) + r"(.+)\.lora_(A|B)\.weight", name)
    if not match or match[1] not in by_module:
      raise ValueError(
        f"{file}: tensor {name} is unknown; expected {_PREFIX}<module>"
        ".lora_A.weight or .lora_B.weight of a linear module of the base model"
      )
    place = 0 if match[2] == "A" else 1
    with parsing.naming(file):
      names.check_finite(name, array)
    if array.ndim != 2 or array.shape[place] != rank:
      raise ValueError(
        f"{file}: tensor {name}: expected a matrix with {rank} "
        f"{('rows', 'columns')[place]} (r in {_CONFIG}), found {array.shape}"
      )
    found.setdefault(match[1], {})[match[2]] = array
  adapters = {}
  for module, pair in found.items():
    for letter in ("A", "B"):
      if letter not in pair:
        raise ValueError(
          f"{file}: tensor {_PREFIX}{module}.lora_{letter}.weight is missing; "
          "the module's other matrix is present"
        )
    rule = by_module[module]
    b = names.to_ours(pair["B"], _matrix(rule), pair["B"].shape[::-1])
    adapters[rule.ours] = {
      "a": np.ascontiguousarray(pair["A"].T),
      "b": np.ascontiguousarray(b),
    }
  if not adapters:
    raise ValueError(f"{file}: expected adapters, found no tensors")
  kinds = {array.dtype for array in tensors.values()}
  bfloat16 = kinds == {jnp.dtype(jnp.bfloat16)}
  config = lora.LoraConfig(
    rank=rank,
    alpha=alpha,
    targets=tuple(re.escape(path) for path in sorted(adapters)),
    dtype="bfloat16" if bfloat16 else "float32",
  )
  if not bfloat16:
    adapters = {
      path: {name: x.astype(np.float32) for name, x in pair.items()}
      for path, pair in adapters.items()
    }
  return adapters, config


def _module(rule: names.Rule) -> str:
  return rule.theirs.removesuffix(".weight")


def _matrix(rule: names.Rule) -> names.Rule:
  """Returns the rule of b, whose rows are in the order of the weight's."""
  return rule._replace(inputs=1, shift=0.0)


def _description(
  config: lora.LoraConfig,
  rules: Sequence[names.Rule],
  modules: list[str],
  base: str,
) -> names.JsonObject:
  """Returns the contents of adapter_config.json."""
  # PEFT adapts all modules whose names have these endings.
  endings = {module.rsplit(".", 1)[-1] for module in modules}
  matching = {
    _module(rule)
    for rule in rules
    if rule.inputs and _module(rule).rsplit(".", 1)[-1] in endings
  }
  is_encoder_decoder = any(
    m.startswith("encoder.") for m in map(_module, rules)
  )
  alpha = config.alpha
  return {
    "peft_type": "LORA",
    "task_type": "SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": config.rank,
    "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
    "lora_dropout": 0.0,
    "target_modules": sorted(endings if matching == set(modules) else modules),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
  }


def _read_description(file: pathlib.Path) -> tuple[int, float]:
  """Returns (rank, alpha) of an adapter_config.json.

  Raises:
    ValueError: an unsupported option.
  """
  if not file.is_file():
    raise ValueError(f"{file}: expected a PEFT configuration, found no file")
  values = parsing.read_json(parsing.inside(file.parent, file.name))
  if values.get("peft_type") != "LORA":
    raise ValueError(f"{file}: expected peft_type LORA, found {values!r:.200}")
  for key in _UNSUPPORTED:
    if values.get(key):
      raise ValueError(f"{file}: {key} is {values[key]!r}; it is not supported")
  if values.get("bias", "none") != "none":
    raise ValueError(f"{file}: bias is {values['bias']!r}; expected 'none'")
  start = values.get("init_lora_weights")
  if not any(start is known or start == known for known in _INITIALIZATIONS):
    raise ValueError(
      f"{file}: init_lora_weights is {start!r}, which changes the base model; "
      "convert the adapter to a plain one with PEFT"
    )
  with parsing.naming(file):
    rank = parsing.field(values, "r", int)
    alpha = parsing.field(values, "lora_alpha", float)
  if rank < 1:
    raise ValueError(f"{file}: r is {rank!r}; expected an integer >= 1")
  if alpha <= 0:
    raise ValueError(f"{file}: lora_alpha is {alpha!r}; expected a number > 0")
  scale = math.sqrt(rank) if values.get("use_rslora") else 1.0
  return rank, float(alpha) * scale


def _read_tensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors

  if not file.is_file():
    raise ValueError(
      f"{file} does not exist; adapter_model.bin is a pickle, which is not "
      "opened: save the adapter again with PEFT, which writes safetensors"
    )
  parsing.inside(file.parent, file.name)
  try:
    with safetensors.safe_open(file, framework="numpy") as opened:
      return {name: opened.get_tensor(name) for name in opened.keys()}
  except (safetensors.SafetensorError, *parsing.ERRORS) as error:
    raise ValueError(
      f"{file} is not a complete safetensors file: {error}"
    ) from error
