# SPDX-License-Identifier: Apache-2.0
"""Meshes from text, and shardings of parameters and batches on them.

"data:-1" puts all devices on the batch axis, "data:2,model:4" shards parameters
over four devices, and "sequence:2" shards the columns of activations, for
meshes with more devices than a batch has rows.
"""

from __future__ import annotations

import functools
from typing import Callable, Iterator, Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Bool, PyTree
import numpy as np

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.ops import quantization


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
  shapes = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, jnp.dtype(placement.float_dtype), sharding=sharding
    ),
    nn.unbox(boxed),
    param_shardings(mesh, boxed, placement),
  )
  if not placement.is_quantized:
    return shapes
  names = flax.traverse_util.flatten_dict(boxed, sep="/")
  flat = flax.traverse_util.flatten_dict(shapes, sep="/")
  for path, leaf in names.items():
    if path.endswith("/kernel") and not {"vocab", "scalar"} & set(leaf.names):
      scale = quantization.scale_path(path)
      flat[path], flat[scale] = _abstract_codes(path, flat[path], placement)
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _abstract_codes(
  path: str, kernel: jax.ShapeDtypeStruct, placement: compute_lib.Placement
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
  """Returns the shapes and shardings of a kernel's codes and scales."""
  inputs = quantization.kernel_inputs(path, kernel.shape)
  codes, scale = jax.eval_shape(
    lambda x: quantization.quantize(x, inputs, placement.dtype), kernel
  )
  mesh, spec = kernel.sharding.mesh, []
  for axis, size in zip(kernel.sharding.spec, scale.shape, strict=True):
    fits = axis is not None and size % mesh.shape[axis] == 0
    spec.append(axis if fits else None)
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  return (
    jax.ShapeDtypeStruct(codes.shape, codes.dtype, sharding=kernel.sharding),
    jax.ShapeDtypeStruct(scale.shape, scale.dtype, sharding=place),
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
def _make_array_reshard(
  shardings: tuple[jax.sharding.NamedSharding, ...], num_inputs: int, dtype: str
) -> Callable[..., tuple[jax.Array, ...]]:
  """Returns the jitted copy of a parameter to shardings and a dtype.

  It takes and returns the parameter, and its scales if it is quantized.
  """

  def convert(x, scale=None):
    both = quantization.convert(x, scale, num_inputs=num_inputs, dtype=dtype)
    return both[: len(shardings)]

  return jax.jit(convert, out_shardings=shardings)


def array_reshards(
  params: PyTree, like: PyTree, placement: compute_lib.Placement
) -> Iterator[tuple[list[str], Callable[..., tuple[jax.Array, ...]], list]]:
  """Yields the copies of `make_reshard`, one for each parameter.

  Args:
    params: parameters, or their shapes; leaves that `like` lacks, such as
      attached adapters, are not copied.
    like: `abstract_params` of the placement.
    placement: sharding and dtype of the copies.

  Yields:
    Paths of the copy, its jitted function, and the function's arguments.
  """
  flat, to = (
    flax.traverse_util.flatten_dict(tree, sep="/") for tree in (params, like)
  )
  # All processes copy in one order.
  for path in sorted(flat.keys() & to.keys()):
    if path.endswith(quantization.KERNEL_SCALE):
      continue
    both = (path, quantization.scale_path(path))
    paths = [name for name in both if name in to]
    given = [flat[name] for name in both if name in flat]
    copy = _make_array_reshard(
      tuple(to[name].sharding for name in paths),
      quantization.kernel_inputs(path, flat[path].shape),
      placement.dtype if len(paths) == 2 else placement.float_dtype,
    )
    yield paths, copy, given


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
  like = abstract_params(init, mesh, placement)

  def reshard(params):
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for paths, copy, given in array_reshards(params, like, placement):
      flat.pop(quantization.scale_path(paths[0]), None)
      flat.update(zip(paths, copy(*given), strict=True))
    return flax.traverse_util.unflatten_dict(flat, sep="/")

  return reshard


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
