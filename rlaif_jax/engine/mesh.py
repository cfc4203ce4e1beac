# SPDX-License-Identifier: Apache-2.0
"""Meshes from a string, and one table of logical axes to mesh axes.

`"data:-1"` puts all devices on the batch axis; `"data:2,model:4"` splits
parameters over four; `"sequence:2"` halves the columns of activations, for
meshes that have more devices than a batch has rows. Everything is jit with
NamedSharding.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import compute as compute_lib


def make_mesh(text: str, devices: list[Any] | None = None) -> jax.sharding.Mesh:
  """Parses "data:-1,fsdp:1,model:1"; one size may be -1 for "the rest".

  Raises:
    ValueError: an unknown axis, or sizes that do not multiply to the number
      of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = dict.fromkeys(compute_lib.AXES, 1)
  for part in text.split(","):
    name, _, size = part.strip().partition(":")
    if name not in compute_lib.AXES or not size.lstrip("-").isdigit():
      raise ValueError(
        f"mesh is {text!r}; part {part!r} is not AXIS:SIZE with AXIS one of "
        f"{compute_lib.AXES}, for example data:-1,model:4"
      )
    sizes[name] = int(size)
  wild = [name for name, size in sizes.items() if size == -1]
  known = int(np.prod([size for size in sizes.values() if size != -1]))
  if len(wild) == 1 and known > 0 and len(devices) % known == 0:
    sizes[wild[0]] = len(devices) // known
  if int(np.prod(list(sizes.values()))) != len(devices) or len(wild) > 1:
    raise ValueError(
      f"mesh is {text!r}, but there are {len(devices)} devices; the sizes "
      "must multiply to that number, and one of them may be -1"
    )
  shape = tuple(sizes[name] for name in compute_lib.AXES)
  return jax.sharding.Mesh(np.asarray(devices).reshape(shape), compute_lib.AXES)


def param_shardings(
  mesh: jax.sharding.Mesh,
  boxed: Any,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> Any:
  """NamedShardings of abstract parameters boxed with logical axis names.

  An axis that its mesh axis does not divide is left whole.
  """
  rules = placement.table()

  def sharding(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      raise ValueError(f"a parameter of shape {leaf.shape} has no axis names")
    spec = []
    for name, size in zip(leaf.names, leaf.value.shape, strict=True):
      if name not in rules:
        raise ValueError(
          f"logical axis {name!r} has no rule; the table has {sorted(rules)}"
        )
      axis = rules[name]
      fits = axis is not None and size % mesh.shape[axis] == 0
      spec.append(axis if fits else None)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  return jax.tree.map(
    sharding, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def abstract_params(
  init: Callable[[jax.Array], Any],
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> Any:
  """Shapes and shardings of a model's parameters, without making them."""
  boxed = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, jnp.dtype(placement.dtype), sharding=sharding
    ),
    nn.unbox(boxed),
    param_shardings(mesh, boxed, placement),
  )


@functools.cache
def array_mover(sharding: jax.sharding.NamedSharding, dtype: Any) -> Any:
  """Jitted: a copy of an array that lies so and has this type."""
  return jax.jit(lambda x: x.astype(dtype), out_shardings=sharding)


def mover(
  init: Callable[[jax.Array], Any],
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement | None,
) -> Callable[[Any], Any]:
  """Returns move(params): a copy that lies, and has the type, of `placement`.

  With None they stay, and there is no copy.

  Where a split parameter comes to lie whole it is gathered here, once, instead
  of in each program (and in each turn of a loop) that reads it. One parameter
  is moved after another, so beside both copies there are never more temporary
  bytes than moving one takes.
  """
  if placement is None:
    return lambda params: params
  like = abstract_params(init, mesh, placement)
  return lambda params: jax.tree.map(
    lambda x, to: array_mover(to.sharding, to.dtype)(x), params, like
  )


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The leading axis of every batch array is split over data and fsdp."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(("data", "fsdp"))
  )


def activation_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Rows over data and fsdp, columns over sequence; see
  `models.layers.ForwardOptions`."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(("data", "fsdp"), "sequence")
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The whole array on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def held_rows(mesh: jax.sharding.Mesh, rows: int) -> np.ndarray:
  """Which rows of a batch this process's devices hold: bool [rows]."""
  places = batch_sharding(mesh).addressable_devices_indices_map((rows,))
  held = np.zeros(rows, bool)
  for (index,) in places.values():
    held[index] = True
  return held


def put_batch(mesh: jax.sharding.Mesh, batch: Any) -> Any:
  """Puts host arrays on the mesh, split over their leading axis.

  Of several processes each puts its own rows; what stands in the others'
  (`held_rows`) is not looked at.

  Raises:
    ValueError: the batch does not divide by the data devices.
  """
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  for leaf in jax.tree.leaves(batch):
    if leaf.shape[0] % shards:
      raise ValueError(
        f"a batch of {leaf.shape[0]} rows does not divide by the {shards} "
        "data devices of the mesh; choose a multiple"
      )
  sharding = batch_sharding(mesh)
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      x.shape, sharding, lambda index: np.asarray(x[index])
    ),
    batch,
  )
