# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters in the files of Hugging Face's PEFT.

A folder holds adapter_config.json and adapter_model.safetensors; the latter has
`base_model.model.<module>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r]
for each adapted linear module (facts from huggingface/peft: LoraConfig,
tuners/lora, utils/save_and_load.py).
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from typing import Any, Sequence

import jax.numpy as jnp
import numpy as np

from rlaif_jax.interop import names
from rlaif_jax.models import lora

_TENSORS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
# Starts that leave the base model's weights as they are.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Whatever is on here computes something other than W + scale a b.
_REFUSED = (
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
  """Writes adapters that PEFT can load; the config is written last.

  Args:
    directory: made if it is not there; its adapter is replaced.
    adapters: {path: {"a": [in, r], "b": [r, out]}}.
    config: rank, alpha and dtype of the adapters.
    rules: the base model's table of names, all of it: from it we know whether
      all modules of a name are adapted, or must be listed one by one.
    base: the base model's name or path.

  Raises:
    ValueError: an adapter whose kernel is no linear module of theirs, or of
      another rank.
  """
  import safetensors.numpy

  by_ours = {rule.ours: rule for rule in rules}
  tensors, modules = {}, []
  for path, adapter in adapters.items():
    rule = by_ours.get(path)
    if rule is None or not rule.inputs or not rule.theirs.endswith(".weight"):
      raise ValueError(
        f"adapter {path}: the base model's names have no linear module for it"
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
    raise ValueError(f"{directory}: there are no adapters to write")
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / _CONFIG).unlink(missing_ok=True)
  safetensors.numpy.save_file(
    tensors, directory / _TENSORS, metadata={"format": "pt"}
  )
  text = json.dumps(_description(config, rules, modules, base), indent=2)
  temporary = directory / f"{_CONFIG}.tmp"
  temporary.write_text(text + "\n", "utf-8")
  temporary.rename(directory / _CONFIG)


def load(
  directory: str | os.PathLike, rules: Sequence[names.Rule]
) -> tuple[dict[str, dict[str, np.ndarray]], lora.LoraConfig]:
  """Reads a PEFT adapter.

  Args:
    directory: with adapter_config.json and adapter_model.safetensors.
    rules: the base model's table of names.

  Returns:
    Adapters {path: {"a": [in, r], "b": [r, out]}}, and a config whose targets
    are their paths. PEFT's dropout is not ours and is left out; rsLoRA's scale
    alpha / sqrt(r) becomes an alpha of ours.

  Raises:
    ValueError: an option that computes something else, an unknown tensor, one
      without its partner, or of another rank; names the file and the tensor.
  """
  directory = pathlib.Path(directory)
  rank, alpha = _read_description(directory / _CONFIG)
  file = directory / _TENSORS
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
          "its partner is there"
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
  """The rule for b: its rows are ordered as those of their weight."""
  return rule._replace(inputs=1, shift=0.0)


def _description(
  config: lora.LoraConfig,
  rules: Sequence[names.Rule],
  modules: list[str],
  base: str,
) -> dict[str, Any]:
  """What adapter_config.json says."""
  # PEFT adapts each module whose name ends so.
  endings = {module.rsplit(".", 1)[-1] for module in modules}
  alike = {
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
    "target_modules": sorted(endings if alike == set(modules) else modules),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
  }


def _read_description(file: pathlib.Path) -> tuple[int, float]:
  """(rank, alpha) of an adapter_config.json that we can compute."""
  try:
    values = json.loads(file.read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{file}: expected a PEFT configuration: {error}"
    ) from error
  if not isinstance(values, dict) or values.get("peft_type") != "LORA":
    raise ValueError(f"{file}: expected peft_type LORA, found {values!r:.200}")
  for key in _REFUSED:
    if values.get(key):
      raise ValueError(f"{file}: {key} is {values[key]!r}; it is not supported")
  if values.get("bias", "none") != "none":
    raise ValueError(f"{file}: bias is {values['bias']!r}; expected 'none'")
  start = values.get("init_lora_weights")
  if not any(start is known or start == known for known in _STARTS):
    raise ValueError(
      f"{file}: init_lora_weights is {start!r}, which changes the base model; "
      "expected an adapter that was converted to a plain one"
    )
  rank, alpha = values.get("r"), values.get("lora_alpha")
  if type(rank) is not int or rank < 1:
    raise ValueError(f"{file}: r is {rank!r}; expected an integer >= 1")
  if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
    raise ValueError(f"{file}: lora_alpha is {alpha!r}; expected a number > 0")
  scale = math.sqrt(rank) if values.get("use_rslora") else 1.0
  return rank, float(alpha) * scale


def _read_tensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors

  if not file.is_file():
    raise ValueError(
      f"{file} does not exist; an adapter_model.bin is a pickle, which we do "
      "not open: save it again with PEFT, which writes safetensors"
    )
  try:
    with safetensors.safe_open(file, framework="numpy") as opened:
      return {name: opened.get_tensor(name) for name in opened.keys()}
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise ValueError(f"{file}: no whole safetensors file: {error}") from error
