# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on the kernels of any parameter tree (arXiv:2106.09685).

A kernel W of shape [*inputs, *features], as a matrix [in, out], becomes
W + (alpha / rank) a b with a [in, rank] and b [rank, out]. Only a and b are
trained. `attach` adds x a b to each product x W, so that models with different
adapters share one W; `merge` returns the sum as new kernels. Parameters are
unboxed nested dicts; a path joins their keys by '/'.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rlaif_jax.core import lora_config
from rlaif_jax.core import protocols
from rlaif_jax.models import layers
from rlaif_jax.ops import quantization

Adapters = Mapping[str, Mapping[str, Float[Array, "rows columns"]]]
LoraConfig = lora_config.LoraConfig


def matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
  """Returns (in, out) of a kernel.

  Raises:
    ValueError: not a kernel of at least two axes (embeddings, norms, biases).
  """
  if path.split("/")[-1] != "kernel" or len(shape) < 2:
    raise ValueError(
      f"parameter {path} {tuple(shape)} takes no adapter: it is not a kernel "
      "with inputs and outputs (embeddings, norms and biases are not); narrow "
      "LoraConfig.targets"
    )
  inputs = quantization.kernel_inputs(path, shape)
  return math.prod(shape[:inputs]), math.prod(shape[inputs:])


def target_paths(params: protocols.Params, config: LoraConfig) -> list[str]:
  """Returns the sorted paths of the kernels with an adapter.

  Raises:
    ValueError: a target that matches no path (similar names are listed), or a
      parameter that is not a kernel.
  """
  flat = _flatten(params)
  chosen = set()
  for target in config.targets:
    matched = [path for path in flat if re.fullmatch(target, path)]
    if not matched:
      kernels = [path for path in flat if path.endswith("kernel")]
      near = difflib.get_close_matches(target, kernels, 4, 0.2) or kernels[:4]
      raise ValueError(
        f"LoraConfig.targets: {target!r} matches no whole path of the "
        f"parameters; similar names: {', '.join(near)}"
      )
    for path in matched:
      matrix_shape(path, flat[path].shape)
    chosen |= set(matched)
  return sorted(chosen)


def init(
  key: Key[Array, ""], params: protocols.Params, config: LoraConfig
) -> Adapters:
  """Returns new adapters, with which the model computes the same.

  b is zero; a is uniform in +-1/sqrt(in), PEFT's Kaiming initialization (the
  paper uses a Gaussian).

  Args:
    key: PRNG key.
    params: arrays, or ShapeDtypeStructs.
    config: targets and size.

  Returns:
    {path: {"a": [in, rank], "b": [rank, out]}}.

  Raises:
    ValueError: see `target_paths`.
  """
  flat = _flatten(params)
  adapters = {}
  for number, path in enumerate(target_paths(params, config)):
    fan_in, fan_out = matrix_shape(path, flat[path].shape)
    bound = 1.0 / math.sqrt(fan_in)
    a = jax.random.uniform(
      jax.random.fold_in(key, number),
      (fan_in, config.rank),
      jnp.float32,
      -bound,
      bound,
    )
    b = jnp.zeros((config.rank, fan_out), config.dtype)
    adapters[path] = {"a": a.astype(config.dtype), "b": b}
  return adapters


def attach(
  params: protocols.Params, adapters: Adapters, config: LoraConfig
) -> protocols.Params:
  """Returns the parameters, the same arrays, with adapters beside the kernels.

  `layers.Projection` reads them. The kernels get no gradient if only the
  adapters are differentiated, which saves a third of a backward pass.

  Raises:
    ValueError: an adapter without its kernel, or of another shape.
  """
  flat = _flatten(params)
  for path, adapter in adapters.items():
    _check_shapes(flat, path, adapter, config)
    module = path.removesuffix("kernel")
    flat[f"{module}{layers.LORA_A}"] = adapter["a"]
    flat[f"{module}{layers.LORA_B}"] = adapter["b"] * config.scale
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def merge(
  params: protocols.Params, adapters: Adapters, config: LoraConfig
) -> protocols.Params:
  """Returns parameters with the kernels W + (alpha / rank) a b.

  Quantized kernels become float32. It is differentiable in
  both. vmap over adapters with a leading axis gives an
  ensemble on one frozen model.

  Raises:
    ValueError: an adapter without its kernel, or of another shape.
  """
  flat = quantization.dequantize_all(_flatten(params))
  for path, adapter in adapters.items():
    _check_shapes(flat, path, adapter, config)
    kernel = flat[path]
    a, b = (adapter[name].astype(jnp.float32) for name in ("a", "b"))
    change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    total = kernel.astype(jnp.float32)
    total += config.scale * change.reshape(kernel.shape)
    flat[path] = total.astype(kernel.dtype)
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _check_shapes(
  flat: Mapping[str, Array],
  path: str,
  adapter: Mapping[str, Array],
  config: LoraConfig,
) -> None:
  """Raises ValueError if an adapter does not fit its kernel."""
  if path not in flat:
    near = difflib.get_close_matches(path, flat, 3, 0.3)
    raise ValueError(
      f"adapter {path}: the model has no such parameter; similar names: {near}"
    )
  fan_in, fan_out = matrix_shape(path, flat[path].shape)
  shapes = {name: tuple(value.shape) for name, value in adapter.items()}
  expected = {"a": (fan_in, config.rank), "b": (config.rank, fan_out)}
  if shapes != expected:
    raise ValueError(
      f"adapter {path}: expected shapes {expected}, found {shapes}"
    )


def _flatten(params: protocols.Params) -> dict[str, Array]:
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  for path, leaf in flat.items():
    if not hasattr(leaf, "shape"):
      raise ValueError(
        f"parameter {path} is {type(leaf).__name__}; unbox the parameters "
        "(flax.linen.unbox) before creating adapters"
      )
  return flat
