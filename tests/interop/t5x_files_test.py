# SPDX-License-Identifier: Apache-2.0
"""T5X checkpoints of an independent writer, round trips, and bad files."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from rlaif_jax.interop import t5x_files

# T5 1.1 as T5X names and shapes it; width 8, 2 heads of 3, MLP of 6.
_ATTENTION = {"query": (8, 6), "key": (8, 6), "value": (8, 6), "out": (6, 8)}
_MLP = {"wi_0": (8, 6), "wi_1": (8, 6), "wo": (6, 8)}


def t5_params(seed=0):
  shapes = {"token_embedder/embedding": (16, 8)}
  stacks = {
    "encoder": {"attention": "pre_attention_layer_norm"},
    "decoder": {
      "self_attention": "pre_self_attention_layer_norm",
      "encoder_decoder_attention": "pre_cross_attention_layer_norm",
    },
  }
  for stack, attentions in stacks.items():
    shapes[f"{stack}/{stack}_norm/scale"] = (8,)
    shapes[f"{stack}/relpos_bias/rel_embedding"] = (2, 4)
    layer = f"{stack}/layers_0"
    for attention, norm in attentions.items():
      shapes[f"{layer}/{norm}/scale"] = (8,)
      for name, shape in _ATTENTION.items():
        shapes[f"{layer}/{attention}/{name}/kernel"] = shape
    shapes[f"{layer}/pre_mlp_layer_norm/scale"] = (8,)
    for name, shape in _MLP.items():
      shapes[f"{layer}/mlp/{name}/kernel"] = shape
  shapes["decoder/logits_dense/kernel"] = (8, 16)
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def ext(array):
  """An array as flax puts it into msgpack: extension 1."""
  body = (list(array.shape), array.dtype.name, array.tobytes())
  return msgpack.ExtType(1, msgpack.packb(body, use_bin_type=True))


def write_zarr(folder, array, chunks):
  """The files of a zarr array by their published format, without a library."""
  folder.mkdir(parents=True)
  header = {
    "chunks": list(chunks),
    "compressor": {"id": "gzip", "level": 1},
    "dimension_separator": ".",
    "dtype": array.dtype.str,
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": list(array.shape),
    "zarr_format": 2,
  }
  (folder / ".zarray").write_text(json.dumps(header))
  grid = [range(-(-s // c)) for s, c in zip(array.shape, chunks)]
  for index in itertools.product(*grid):
    block = np.zeros(chunks, array.dtype)
    part = array[tuple(slice(i * c, i * c + c) for i, c in zip(index, chunks))]
    block[tuple(slice(0, size) for size in part.shape)] = part
    name = ".".join(map(str, index)) or "0"
    (folder / name).write_bytes(gzip.compress(block.tobytes(), 1))


def spec(name, array, chunks, driver="file"):
  path = "target." + name.replace("/", ".")
  return {
    "driver": "zarr",
    "dtype": array.dtype.name,
    "kvstore": {"driver": driver, "path": f"{path}/"},
    "metadata": {
      "chunks": list(chunks),
      "compressor": {"id": "gzip", "level": 1},
      "shape": list(array.shape),
    },
  }


def nested(flat):
  tree = {}
  for name, leaf in flat.items():
    *folders, last = name.split("/")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return tree


def pack(directory, leaves, step=7, **changes):
  """Writes the msgpack; `leaves` is {name under target: leaf}."""
  state = {"step": ext(np.asarray(step, np.int32)), "param_states": {}}
  contents = {
    "version": 3,
    "optimizer": {"target": nested(leaves), "state": state},
    **changes,
  }
  data = msgpack.packb(contents, use_bin_type=True)
  (directory / "checkpoint").write_bytes(data)


def write_published(parent, params, step=7, driver="file"):
  """T5X's legacy layout: vectors inline, the rest zarr in 2 x 2 chunks."""
  directory = parent / f"checkpoint_{step}"
  directory.mkdir(parents=True)
  leaves = {}
  for name, array in params.items():
    if array.ndim == 1:
      leaves[name] = ext(array)
      continue
    chunks = [size // 2 for size in array.shape]
    leaves[name] = spec(name, array, chunks, driver)
    write_zarr(directory / ("target." + name.replace("/", ".")), array, chunks)
  pack(directory, leaves, step)
  return directory, leaves


def assert_same(source, params):
  assert source.names == {n: (x.shape, x.dtype) for n, x in params.items()}
  assert source.shapes() == {n: x.shape for n, x in params.items()}
  for name, array in params.items():
    np.testing.assert_array_equal(source.read(name), array, strict=True)


@pytest.mark.parametrize("driver", ["file", "gfile", "gcs"])
def test_reads_the_published_layout_with_no_renaming(tmp_path, driver):
  params = t5_params()
  directory, _ = write_published(tmp_path, params, driver=driver)
  source = t5x_files.open_checkpoint(directory)
  assert source.step == 7
  assert_same(source, params)


def test_reads_a_checkpoint_that_is_all_msgpack(tmp_path):
  params = t5_params()
  pack(tmp_path, {name: ext(array) for name, array in params.items()}, 3)
  source = t5x_files.open_checkpoint(tmp_path)
  assert_same(source, params)
  assert source.step == 3


def test_reads_paths_above_the_kvstore_and_bfloat16_as_uint16(tmp_path):
  """Specs of tensorstore < 0.1.14, and T5X's version 2."""
  kernel = np.asarray(t5_params()["encoder/layers_0/mlp/wo/kernel"])
  stored = jnp.asarray(kernel, jnp.bfloat16)
  bits = np.asarray(stored).view(np.uint16)
  write_zarr(tmp_path / "target.wo", bits, (3, 8))
  leaf = spec("wo", bits, (3, 8))
  leaf |= {"kvstore": {"driver": "file"}, "path": "target.wo"}
  pack(tmp_path, {"wo": leaf}, version=2)
  source = t5x_files.open_checkpoint(tmp_path)
  assert source.names["wo"] == ((6, 8), jnp.dtype(jnp.bfloat16))
  np.testing.assert_array_equal(source.read("wo"), stored, strict=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_writes_what_it_reads(tmp_path, dtype):
  params = t5_params()
  path = t5x_files.write_legacy(tmp_path, 11, params.items(), dtype)
  source = t5x_files.open_checkpoint(tmp_path)
  assert source.directory == path and source.step == 11
  assert_same(
    source, {n: x.astype(jnp.dtype(dtype)) for n, x in params.items()}
  )
  assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint_11"]


def test_writes_the_published_files(tmp_path):
  """The same tree, specs, headers and bytes as the independent writer's."""
  params = {n: x for n, x in t5_params().items() if x.ndim == 2}
  ours = t5x_files.write_legacy(tmp_path / "ours", 7, params.items())
  theirs = tmp_path / "theirs"
  theirs.mkdir()
  leaves = {n: spec(n, array, array.shape) for n, array in params.items()}
  pack(theirs, leaves)
  expected = msgpack.unpackb((theirs / "checkpoint").read_bytes())
  # T5X's `load_t5x_checkpoint` takes an empty tree for a tensor.
  assert expected["optimizer"]["state"].pop("param_states") == {}
  assert msgpack.unpackb((ours / "checkpoint").read_bytes()) == expected
  for name, array in params.items():
    folder = "target." + name.replace("/", ".")
    write_zarr(theirs / folder, array, array.shape)
    for file, read in ((".zarray", json.loads), ("0.0", gzip.decompress)):
      found = read((ours / folder / file).read_bytes())
      assert found == read((theirs / folder / file).read_bytes())


def test_zeros_are_stored_and_read(tmp_path):
  params = {"b": np.zeros((2, 3), np.float32), "s": np.float32(0).reshape(())}
  t5x_files.write_legacy(tmp_path, 0, params.items())
  assert_same(t5x_files.open_checkpoint(tmp_path), params)


def test_a_failed_write_leaves_nothing(tmp_path):
  def params():
    yield "a/b", np.ones(3)
    assert list(tmp_path.glob("checkpoint_5.tmp-*/target.a.b"))
    yield "a", np.ones(3)

  with pytest.raises(ValueError, match="'a' has others inside"):
    t5x_files.write_legacy(tmp_path, 5, params())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "names, message",
  [
    (["a", "a/b"], "inside another"),
    (["a/b", "a.b"], "written twice"),
    (["../a"], "are not allowed"),
    (["/a"], "are not allowed"),
    ([], "no parameters"),
  ],
)
def test_refuses_to_write(tmp_path, names, message):
  with pytest.raises(ValueError, match=message):
    t5x_files.write_legacy(tmp_path, 5, [(n, np.ones(3)) for n in names])
  assert not list(tmp_path.iterdir())


def test_never_writes_over_a_checkpoint(tmp_path):
  t5x_files.write_legacy(tmp_path, 5, [("a", np.ones(3))])
  with pytest.raises(ValueError, match="exists"):
    t5x_files.write_legacy(tmp_path, 5, [("a", np.zeros(3))])
  np.testing.assert_array_equal(
    t5x_files.open_checkpoint(tmp_path).read("a"), np.ones(3)
  )


def test_takes_the_newest_finished(tmp_path):
  for step in (9, 10):
    t5x_files.write_legacy(tmp_path, step, [("a", np.full(2, step))])
  shutil.copytree(tmp_path / "checkpoint_10", tmp_path / "checkpoint_11.tmp-12")
  (tmp_path / "checkpoint_12").mkdir()
  assert t5x_files.open_checkpoint(tmp_path).step == 10
  assert t5x_files.open_checkpoint(tmp_path / "checkpoint_9").step == 9
  with pytest.raises(ValueError, match="is not finished"):
    t5x_files.open_checkpoint(tmp_path / "checkpoint_11.tmp-12")
  with pytest.raises(ValueError, match="found no finished"):
    t5x_files.open_checkpoint(tmp_path / "checkpoint_12")


@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize("root", ["target", "params"])
def test_reads_orbax(tmp_path, use_ocdbt, root):
  import orbax.checkpoint as ocp

  params = t5_params() | {"zero": np.zeros((2, 2), np.float32)}
  params["half"] = np.asarray(jnp.ones((2, 3), jnp.bfloat16))
  tree = {root: nested(params)}
  if root == "target":
    tree["state"] = {"step": np.int32(21), "param_states": {}}
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)
  folder = tmp_path / "checkpoint_20" / "state"
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
  source = t5x_files.open_checkpoint(tmp_path)
  assert_same(source, params)
  assert source.step == (21 if root == "target" else 20)
  # A lost data file is an error, never zeros.
  for path in folder.rglob("*"):
    if path.is_file() and path.parent.name in (
      "d",
      "target.half",
      "params.half",
    ):
      path.unlink()
  with pytest.raises(ValueError, match="manifest.ocdbt|half"):
    t5x_files.open_checkpoint(tmp_path)


def test_reads_old_orbax_placeholders(tmp_path):
  kernel = t5_params()["encoder/layers_0/mlp/wo/kernel"]
  write_zarr(tmp_path / "target.wo", kernel, kernel.shape)
  contents = {
    "target": {"wo": "PLACEHOLDER://target.wo"},
    "state": {"step": ext(np.asarray(4))},
    "flax_mutables": None,
  }
  (tmp_path / "checkpoint").write_bytes(msgpack.packb(contents))
  source = t5x_files.open_checkpoint(tmp_path)
  assert source.step == 4
  assert_same(source, {"wo": kernel})


def test_names_near_a_wrong_name(tmp_path):
  t5x_files.write_legacy(tmp_path, 1, [("encoder/scale", np.ones(2))])
  with pytest.raises(ValueError, match="similar names: .'encoder/scale'"):
    t5x_files.open_checkpoint(tmp_path).read("encoder/scales")


# ---- Files that cannot be trusted.

NAME = "encoder/layers_0/mlp/wo/kernel"
FOLDER = "target.encoder.layers_0.mlp.wo.kernel"


def edit_header(directory, changes):
  path = directory / FOLDER / ".zarray"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def link_away(directory):
  away = directory.parent / "away"
  (directory / FOLDER).rename(away)
  (directory / FOLDER).symlink_to(away)


def cut(path, size):
  path.write_bytes(path.read_bytes()[:size])


# Damage to the files -> what is said about it.
FILES = {
  "is not a complete flax msgpack": lambda d: cut(d / "checkpoint", -9),
  f"{FOLDER}/.zarray: .* no such file": lambda d: shutil.rmtree(d / FOLDER),
  f"{FOLDER}/1.0: .* 48 bytes.*no bytes": lambda d: (
    d / FOLDER / "1.0"
  ).unlink(),
  f"{FOLDER}/1.1: .* 48 bytes.*no bytes": lambda d: cut(d / FOLDER / "1.1", 0),
  f"{FOLDER}/.zarray: expected .*found no such": link_away,
  "TensorFlow": lambda d: (d / "checkpoint").write_text(
    'model_checkpoint_path: "x"'
  ),
}
# Changes of an array's header and of its spec's shape.
HEADERS = {
  r"expected shape \(6, 8\).*found \(8, 6\)": ({"shape": [8, 6]}, [6, 8]),
  f"{FOLDER}/0.0: expected a chunk of 35184372088832 bytes": (
    {"shape": [2**40, 8], "chunks": [2**40, 8]},
    [2**40, 8],
  ),
  f"{FOLDER}/0.2: expected a chunk of 4 bytes": (
    {"shape": [2**40, 8], "chunks": [1, 1]},
    [2**40, 8],
  ),
  "expected a zarr 2 header.*O": ({"dtype": "|O"}, [6, 8]),
  "expected a zarr 2 header.*pickle": ({"filters": [{"id": "pickle"}]}, [6, 8]),
}
# Changes of an array's spec.
PARENT = f"../checkpoint_7/{FOLDER}"
SPECS = {
  "are not allowed": {"kvstore": {"driver": "file", "path": PARENT}},
  "'' is not a plain": {"kvstore": {"driver": "file", "path": f"/{FOLDER}"}},
  "None is not a plain": {"kvstore": {"driver": "http"}},
  f"{NAME}: expected the spec of a zarr.*n5": {"driver": "n5"},
  f"{NAME}: expected the spec of a zarr.*'metadata'": {"metadata": {}},
}
# Changes of the parameters and of the top of the tree.
TREES = {
  f"{NAME}: expected an array, found text": ({NAME: "text"}, {}),
  "is not a plain name": ({"../x": "text"}, {}),
  "version is 1": ({}, {"version": 1}),
  "expected parameters under": ({}, {"optimizer": {"state": {}}}),
}


@pytest.mark.parametrize("message", [*FILES, *HEADERS, *SPECS, *TREES])
def test_bad_files_are_errors_by_name(tmp_path, message):
  directory, leaves = write_published(tmp_path, t5_params())
  if message in FILES:
    FILES[message](directory)
  elif message in HEADERS:
    changes, shape = HEADERS[message]
    edit_header(directory, changes)
    new = leaves[NAME] | {"metadata": {"shape": shape}}
    pack(directory, leaves | {NAME: new})
  elif message in SPECS:
    pack(directory, leaves | {NAME: leaves[NAME] | SPECS[message]})
  else:
    pack(directory, leaves | TREES[message][0], **TREES[message][1])
  with pytest.raises(ValueError, match=message) as caught:
    t5x_files.open_checkpoint(directory)
  assert "checkpoint_7" in str(caught.value)


def test_a_damaged_chunk_is_an_error(tmp_path):
  directory, _ = write_published(tmp_path, t5_params())
  path = directory / FOLDER / "0.1"
  path.write_bytes(path.read_bytes()[:-12])
  source = t5x_files.open_checkpoint(directory)
  with pytest.raises(ValueError, match=f"{FOLDER}: damaged"):
    source.read(NAME)
