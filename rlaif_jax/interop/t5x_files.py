# SPDX-License-Identifier: Apache-2.0
"""T5X checkpoints: reads both layouts, writes the legacy one.

The layouts (after google-research/t5x: checkpoints.py, checkpoint_utils.py,
state_utils.py and its testdata):

Legacy, version 3: `checkpoint_<step>/checkpoint` is a flax msgpack of
{version, optimizer: {target, state: {step, param_states}}}. A leaf is an array,
or the spec of a tensorstore array, which is a zarr (format 2) directory in the
same folder: target/encoder/x -> `target.encoder.x`. The spec's driver is file,
gfile or gcs. Its path is in `kvstore`, or above it in older checkpoints.
Version 2 stores bfloat16 as uint16. Only partitioned leaves are zarr; a small
model may have msgpack leaves only.

Orbax: `checkpoint_<step>/state/`, or the folder itself, with `_METADATA` that
lists the leaves, or, in older checkpoints, with a msgpack named `checkpoint`
that has strings PLACEHOLDER://<directory>. Arrays are zarr, each in its
directory or all in one OCDBT store (`manifest.ocdbt`).

The parameters are under {target} or {params}. Files are not trusted: only the
relative path and the shape of a spec are used, and only files inside the
checkpoint are opened. An array with a missing chunk is an error (tensorstore
would read zeros); neither T5X nor Orbax omits chunks of zeros.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re
import shutil
import time
from typing import Iterable

import flax.serialization
import jax.numpy as jnp
import numpy as np
import numpy.typing

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.interop import zarr_files

_VERSION = 3
_CHUNK_BYTES = 64 * 2**20
_PLACEHOLDER = "PLACEHOLDER://"
_TEMPORARY = re.compile(r"\.tmp-|\.orbax-checkpoint-tmp")


@dataclasses.dataclass(frozen=True)
class T5XSource:
  """A checkpoint's parameters, read one at a time.

  Attributes:
    directory: folder of the checkpoint.
    names: (shape, dtype) by parameter, its path under target joined by '/',
      such as encoder/layers_0/attention/query/kernel.
    step: stored step, else that of the folder's name, else None.
  """

  directory: pathlib.Path
  names: dict[str, tuple[tuple[int, ...], np.dtype]]
  step: int | None
  _leaves: dict[str, object]

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes by parameter."""
    return {name: shape for name, (shape, _) in self.names.items()}

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns a copy of a parameter in its stored dtype.

    Raises:
      ValueError: no such parameter, or its files are damaged.
    """
    del borrow
    if name not in self._leaves:
      near = difflib.get_close_matches(name, self.names, 3, 0.3)
      raise ValueError(
        f"{self.directory}: no parameter {name!r}; similar names: {near}"
      )
    leaf = self._leaves[name]
    return leaf.read() if isinstance(leaf, zarr_files.ZarrArray) else leaf

  def close(self) -> None:
    """Frees the leaves."""
    self._leaves.clear()


def open_checkpoint(path: str | os.PathLike) -> T5XSource:
  """Opens a T5X checkpoint and checks that all its files exist.

  Args:
    path: checkpoint_<step>, its parent (for the newest finished step; folders
      named *.tmp-* are not), or an Orbax folder.

  Raises:
    ValueError: no checkpoint, an unsupported layout or path, a truncated file,
      a missing array or chunk, or another shape; names the file and tensor.
  """
  directory = _find(pathlib.Path(path).absolute())
  with parsing.naming(directory):
    return _opened(directory)


def _opened(directory: pathlib.Path) -> T5XSource:
  """Returns the checkpoint in a folder; its files are checked."""
  for file in sorted(directory.rglob("*")):
    inputs.note(file)
  if (directory / "_METADATA").is_file():
    leaves = _orbax_leaves(directory)
  else:
    leaves = _msgpack_leaves(directory)
  roots = ("optimizer/target/", "target/", "params/")
  root = next((r for r in roots if any(n.startswith(r) for n in leaves)), None)
  if root is None:
    raise ValueError(
      f"{directory}: expected parameters under one of {list(roots)}, found "
      f"{sorted({name.split('/')[0] for name in leaves})}"
    )
  step = _step_of(directory)
  for name in ("optimizer/state/step", "state/step"):
    if name in leaves:
      step = _scalar(directory, name, leaves[name])
  params = {}
  for name, leaf in leaves.items():
    if name.startswith(root):
      params[name[len(root) :]] = _checked(directory, name, leaf)
  names = {n: (tuple(x.shape), np.dtype(x.dtype)) for n, x in params.items()}
  return T5XSource(directory, names, step, params)


def write_legacy(
  directory: str | os.PathLike,
  step: int,
  params: Iterable[tuple[str, np.ndarray]],
  dtype: numpy.typing.DTypeLike = "float32",
) -> pathlib.Path:
  """Writes checkpoint_<step> in T5X's legacy layout, version 3.

  Arrays are written one at a time, and the folder is renamed when it is
  complete. All parameters are zarr with gzip, in chunks of at most 64 MiB that
  divide the shape. There is no optimizer state. (T5X's own loader fails at an
  empty `param_states`.) T5X can infer or start training from it, but not
  resume.

  Args:
    directory: parent folder, created if missing.
    step: step of the folder's name, also stored in the state.
    params: (path under target joined by '/', array) pairs.
    dtype: dtype of the stored arrays; T5X's default is float32.

  Returns:
    The path of the finished checkpoint.

  Raises:
    ValueError: the checkpoint exists, there are no parameters, or a name
      occurs twice, is not a valid path, or is inside another one.
  """
  final = pathlib.Path(directory).absolute() / f"checkpoint_{int(step)}"
  if not 0 <= step < 2**31:
    raise ValueError(f"{final}: step is {step}; it must be in [0, 2^31)")
  if final.exists():
    raise ValueError(f"{final} exists; remove it or write another step")
  temporary = final.with_name(f"{final.name}.tmp-{time.time_ns()}")
  temporary.mkdir(parents=True)
  try:
    target = {}
    for name, array in params:
      spec = _write_array(temporary, name, np.asarray(array), dtype)
      _insert(final, target, name, spec)
    if not target:
      raise ValueError(f"{final}: there are no parameters to write")
    state = {"step": np.asarray(step, np.int32)}
    contents = {
      "version": _VERSION,
      "optimizer": {"target": target, "state": state},
    }
    packed = flax.serialization.msgpack_serialize(contents)
    (temporary / "checkpoint").write_bytes(packed)
    temporary.rename(final)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return final


def _write_array(folder: pathlib.Path, name: str, array, dtype) -> dict:
  """Writes one zarr directory; returns its relative spec, as T5X stores it."""
  import tensorstore as ts

  path = ".".join(["target", *zarr_files.plain_path(folder, name)])
  if (folder / path).exists():
    raise ValueError(f"{folder}: parameter {name!r} is written twice ({path})")
  chunks = zarr_files.chunk_shape(
    array.shape, _CHUNK_BYTES // array.dtype.itemsize
  )
  spec = {
    "driver": "zarr",
    "dtype": jnp.dtype(dtype).name,
    "kvstore": {"driver": "file", "path": f"{path}/"},
    "metadata": {
      "chunks": chunks,
      "compressor": {"id": "gzip", "level": 1},
      "shape": list(array.shape),
    },
  }
  absolute = {"driver": "file", "path": f"{folder / path}/"}
  opened = ts.open({**spec, "kvstore": absolute}, create=True, open=False)
  opened.result().write(array.astype(jnp.dtype(dtype))).result()
  return spec


def _insert(final: pathlib.Path, tree: dict, name: str, leaf: dict) -> None:
  *folders, last = name.split("/")
  for part in folders:
    tree = tree.setdefault(part, {})
    if "kvstore" in tree:
      raise ValueError(f"{final}: parameter {name!r} is inside another one")
  if last in tree:
    raise ValueError(f"{final}: parameter {name!r} has others inside")
  tree[last] = leaf


def _find(path: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the msgpack or the Orbax metadata."""
  if _TEMPORARY.search(path.name):
    raise ValueError(f"{path} is not finished (its name has a tmp suffix)")
  candidates = [path]
  if path.is_dir():
    steps = [
      p for p in path.iterdir() if re.fullmatch(r"checkpoint_\d+", p.name)
    ]
    candidates += sorted(steps, key=_step_of, reverse=True)
  for folder in candidates:
    for inside in (folder / "state", folder):
      if any((inside / name).is_file() for name in ("_METADATA", "checkpoint")):
        return inside
  raise ValueError(
    f"{path}: expected a T5X checkpoint (a folder with `checkpoint`, "
    "`_METADATA` or `state/_METADATA`) or the parent of folders "
    "checkpoint_<step>; found no finished one"
  )


def _step_of(directory: pathlib.Path) -> int | None:
  if directory.name == "state":
    directory = directory.parent
  match = re.fullmatch(r"checkpoint_(\d+)", directory.name)
  return int(match.group(1)) if match else None


def _msgpack_leaves(directory: pathlib.Path) -> dict[str, object]:
  file = parsing.inside(directory, "checkpoint")
  data = file.read_bytes()
  if data.startswith(b"model_checkpoint_path"):
    raise ValueError(
      f"{file}: this is a TensorFlow (Mesh) T5 checkpoint; convert it with T5X"
    )
  try:
    contents = flax.serialization.msgpack_restore(data)
  except parsing.ERRORS as error:
    raise ValueError(
      f"{file} ({len(data)} bytes) is not a complete flax msgpack: "
      f"{parsing.reason(error)}"
    ) from error
  if not isinstance(contents, dict):
    raise ValueError(f"{file}: expected a tree, found {type(contents)}")
  version = contents.get("version", _VERSION)
  if not isinstance(version, int) or version not in (2, _VERSION):
    raise ValueError(f"{file}: version is {version!r}; expected 2 or 3")
  store = zarr_files.open_store(directory)
  leaves = {}
  trees = [([], {k: v for k, v in contents.items() if k != "version"})]
  while trees:
    path, tree = trees.pop()
    for key, value in tree.items():
      here = [*path, zarr_files.plain_name(file, key)]
      if isinstance(value, dict) and not {"driver", "kvstore"} <= set(value):
        trees.append((here, value))
      else:
        leaves["/".join(here)] = _leaf(file, store, "/".join(here), value)
  return leaves


def _leaf(
  file: pathlib.Path,
  store: zarr_files.Files | zarr_files.Ocdbt,
  name: str,
  leaf: object,
) -> object:
  """Returns an inline array, a ZarrArray for a spec, or the leaf itself."""
  if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
    return zarr_files.ZarrArray(
      store, zarr_files.plain_name(file, leaf[len(_PLACEHOLDER) :])
    )
  if isinstance(leaf, (np.ndarray, np.generic, int, float)):
    return np.asarray(leaf)
  if not isinstance(leaf, dict):
    return leaf
  kvstore, metadata = leaf.get("kvstore"), leaf.get("metadata")
  path = kvstore.get("path") if isinstance(kvstore, dict) else None
  path = leaf.get("path") if path is None else path
  shape = metadata.get("shape") if isinstance(metadata, dict) else None
  if leaf.get("driver") != "zarr" or not zarr_files.are_sizes(shape):
    raise ValueError(
      f"{file}: tensor {name}: expected the spec of a zarr array with path and "
      f"shape, found {str(leaf)[:300]}"
    )
  if isinstance(path, str) and path.endswith("/"):
    path = path[:-1]
  return zarr_files.ZarrArray(
    store, "/".join(zarr_files.plain_path(file, path)), tuple(shape)
  )


def _orbax_leaves(directory: pathlib.Path) -> dict[str, object]:
  file = directory / "_METADATA"
  metadata = parsing.read_json(parsing.inside(directory, file.name))
  try:
    entries = [
      ([str(key["key"]) for key in entry["key_metadata"]], entry)
      for entry in metadata["tree_metadata"].values()
    ]
  except parsing.ERRORS as error:
    raise ValueError(
      f"{file}: expected Orbax's tree_metadata; {error!r}"
    ) from error
  if metadata.get("use_zarr3"):
    raise ValueError(f"{file}: expected zarr format 2 (T5X's), found 3")
  store = zarr_files.open_store(directory)
  leaves = {}
  for keys, entry in entries:
    if not entry.get("value_metadata", {}).get("skip_deserialize"):
      path = ".".join(zarr_files.plain_name(file, key) for key in keys)
      leaves["/".join(keys)] = zarr_files.ZarrArray(store, path)
  return leaves


def _checked(directory: pathlib.Path, name: str, leaf: object) -> object:
  """Returns a leaf with its header and chunks checked."""
  if isinstance(leaf, np.ndarray) and (
    leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number)
  ):
    return leaf
  if not isinstance(leaf, zarr_files.ZarrArray):
    raise ValueError(
      f"{directory}: tensor {name}: expected an array, found {str(leaf)[:80]}"
    )
  try:
    return leaf.checked()
  except ValueError as error:
    raise ValueError(f"{directory}: tensor {name}: {error}") from error


def _scalar(directory: pathlib.Path, name: str, leaf: object) -> int:
  leaf = _checked(directory, name, leaf)
  if (
    tuple(leaf.shape) not in ((), (1,)) or np.dtype(leaf.dtype).kind not in "iu"
  ):
    raise ValueError(
      f"{directory}: {name}: expected one integer, found {leaf.shape} "
      f"{leaf.dtype}"
    )
  value = leaf.read() if isinstance(leaf, zarr_files.ZarrArray) else leaf
  return int(value.reshape(()))
