# SPDX-License-Identifier: Apache-2.0
"""Meshes from text, and shardings of parameters and batches on them.

"data:-1" puts all devices on the batch axis, "data:2,model:4" shards parameters
over four devices, and "sequence:2" shards the columns of activations, for
meshes with more devices than a batch has rows.
"""

from __future__ import annotations

import functools
from typing import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, PyTree
import numpy as np

from rlaif_jax.core import compute as compute_lib


def make_mesh(
  text: str, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """Returns the mesh of a text such as "data:-1,fsdp:1,model:1".

  Args:
    text: axis sizes; one may be -1, for the remaining devices.
    devices: None: all devices.

  Raises:
    ValueError: if an axis is unknown, or the sizes do not multiply to the
      number of devices.
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
  boxed: PyTree,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> PyTree[jax.sharding.NamedSharding]:
  """Returns the NamedShardings of parameters boxed with logical axis names.

  An axis without a name, or whose size its mesh axis does not divide, is
  replicated.

  Raises:
    ValueError: if a parameter has no axis names, or a name has no rule.
  """
  rules = {**placement.table(), None: None}

  def sharding(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      raise ValueError(f"a parameter of shape {leaf.shape} has no axis names")
    spec = []
    for name, size in zip(leaf.names, leaf.value.shape, strict=True):
      if name not in rules:
        raise ValueError(
          f"logical axis {name!r} has no rule; the table has "
          f"{sorted(placement.table())}"
        )
      axis = rules[name]
      fits = axis is not None and size % mesh.shape[axis] == 0
      spec.append(axis if fits else None)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  return jax.tree.map(
    sharding, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def abstract_params(
  init: Callable[[jax.Array], PyTree],
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> PyTree[jax.ShapeDtypeStruct]:
  """Returns shapes and shardings of a model's parameters, unallocated."""
  boxed = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, jnp.dtype(placement.dtype), sharding=sharding
    ),
    nn.unbox(boxed),
    param_shardings(mesh, boxed, placement),
  )


def init_params(
  init: Callable[[jax.Array], PyTree],
  key: jax.Array,
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> PyTree[jax.Array]:
  """Returns a model's unboxed parameters, initialised on the mesh."""
  shardings = param_shardings(mesh, jax.eval_shape(init, key), placement)
  return jax.jit(lambda k: nn.unbox(init(k)), out_shardings=shardings)(key)


@functools.cache
def make_array_reshard(
  sharding: jax.sharding.NamedSharding, dtype: jax.typing.DTypeLike
) -> Callable[[jax.Array], jax.Array]:
  """Returns the jitted copy of an array to a sharding and a dtype."""
  return jax.jit(lambda x: x.astype(dtype), out_shardings=sharding)


def make_reshard(
  init: Callable[[jax.Array], PyTree],
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement | None,
) -> Callable[[PyTree], PyTree]:
  """Returns reshard(params): a copy with the sharding and dtype of `placement`.

  A sharded parameter that is replicated in `placement` is gathered once here,
  rather than in each program, and in each iteration of a loop, that reads it.
  Parameters are copied one after another, so the temporary memory is that of
  one parameter.

  Args:
    init: `init` of the model.
    mesh: devices.
    placement: None returns the parameters themselves, without a copy. Attached
      adapters, which are replicated, are not copied either.
  """
  if placement is None:
    return lambda params: params
  like = dict(
    jax.tree_util.tree_leaves_with_path(abstract_params(init, mesh, placement))
  )

  def copy(path, x):
    to = like.get(path)
    return x if to is None else make_array_reshard(to.sharding, to.dtype)(x)

  return lambda params: jax.tree_util.tree_map_with_path(copy, params)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of a batch: rows over data and fsdp."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(("data", "fsdp"))
  )


def activation_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of activations.

  Rows are sharded over data and fsdp, columns over sequence.
  """
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(("data", "fsdp"), "sequence")
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of an array that is whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def addressable_rows(
  mesh: jax.sharding.Mesh, rows: int
) -> Bool[np.ndarray, " rows"]:
  """Returns bool [rows]: the rows of a batch on devices of this process."""
  places = batch_sharding(mesh).addressable_devices_indices_map((rows,))
  held = np.zeros(rows, bool)
  for (index,) in places.values():
    held[index] = True
  return held


def put_batch(mesh: jax.sharding.Mesh, batch: PyTree) -> PyTree:
  """Puts host arrays on the mesh, sharded over their leading axis.

  Each of several processes puts its own rows (`addressable_rows`); the other
  rows are not read.

  Raises:
    ValueError: if the rows do not divide by the data devices.
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
