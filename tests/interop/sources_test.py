# SPDX-License-Identifier: Apache-2.0
"""The format of a path is detected; unknown formats are errors."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import jax
import numpy as np
import pytest

from rlaif_jax.interop import names
from rlaif_jax.interop import sources
from rlaif_jax.interop import t5x_files
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from tests import testing

LLAMA = testing.tiny_decoder(13)
T5 = t5.T5Config(
  vocab_size=13,
  width=16,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  max_length=2048,
  activation="gelu",
)


def arrays(config):
  params = testing.build(architectures.language(config))
  return {
    path: np.asarray(leaf) for path, leaf in names.flatten(params).items()
  }


def read(checkpoint, wanted):
  checkpoint.check({path: array.shape for path, array in wanted.items()})
  return dict(checkpoint.read())


def assert_same(found, wanted):
  assert set(found) == set(wanted)
  for path, array in wanted.items():
    np.testing.assert_array_equal(found[path], array)


@pytest.mark.parametrize("config", [LLAMA, T5], ids=["llama", "t5"])
def test_hf_there_and_back(tmp_path, config):
  params = arrays(config)
  sources.write(str(tmp_path), "hf", config, params.items())
  checkpoint = sources.open_source(str(tmp_path))
  assert checkpoint.layout == "hf" and checkpoint.config == config
  assert_same(read(checkpoint, params), params)


def test_t5x_there_and_back(tmp_path):
  params = arrays(T5)
  sources.write(str(tmp_path), "t5x", T5, params.items())
  assert t5x_files.open_checkpoint(tmp_path).step == 0
  checkpoint = sources.open_source(str(tmp_path), model=T5)
  assert checkpoint.layout == "t5x" and checkpoint.config == T5
  assert_same(read(checkpoint, params), params)


def test_t5x_does_not_say_its_sizes(tmp_path):
  sources.write(str(tmp_path), "t5x", T5, arrays(T5).items())
  with pytest.raises(ValueError, match="does not store its sizes"):
    sources.open_source(str(tmp_path))


def test_only_t5_is_written_as_t5x(tmp_path):
  with pytest.raises(ValueError, match="only T5"):
    sources.write(str(tmp_path), "t5x", LLAMA, arrays(LLAMA).items())


def test_the_compute_type_goes_into_the_config(tmp_path):
  sources.write(str(tmp_path), "hf", LLAMA, arrays(LLAMA).items())
  checkpoint = sources.open_source(str(tmp_path), compute_dtype="bfloat16")
  assert checkpoint.config.dtype == "bfloat16"


@pytest.mark.parametrize(
  "change, words",
  [
    ({"intermediate_size": 25}, "mlp.gate_proj.weight has shape"),
    ({"num_hidden_layers": 3}, "model.layers.2.* is missing"),
    ({"num_hidden_layers": 1}, "model.layers.1.* is unexpected"),
    ({"vocab_size": 14}, "embed_tokens.weight has shape"),
  ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, change, words):
  params = arrays(LLAMA)
  sources.write(str(tmp_path), "hf", LLAMA, params.items())
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  checkpoint = sources.open_source(str(tmp_path))
  wanted = {
    path: leaf.value.shape
    for path, leaf in names.flatten(
      jax.eval_shape(
        architectures.language(checkpoint.config).init,
        jax.random.key(0),
      )
    ).items()
  }
  with pytest.raises(ValueError, match=words):
    checkpoint.check(wanted)


def test_nothing_known(tmp_path):
  with pytest.raises(ValueError, match="does not exist"):
    sources.open_source(str(tmp_path / "no"))
  (tmp_path / "notes.txt").write_text("hello")
  with pytest.raises(ValueError, match="expected a T5X checkpoint"):
    sources.open_source(str(tmp_path))
  with pytest.raises(ValueError, match="does not start with GGUF"):
    sources.open_source(str(tmp_path / "notes.txt"))


def test_too_many_layers_are_refused_before_anything_is_built(tmp_path):
  """A million layers take 6 GB as a table of names."""
  params = arrays(LLAMA)
  sources.write(str(tmp_path), "hf", LLAMA, params.items())
  path = tmp_path / "config.json"
  values = json.loads(path.read_text())
  for count in (10**6, 10**12):
    path.write_text(json.dumps(values | {"num_hidden_layers": count}))
    tracemalloc.start()
    with pytest.raises(ValueError, match="config.json: .* layers, and there"):
      sources.open_source(str(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["hf", "t5x"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, layout):
  params = arrays(T5)
  name = "encoder/layers_0/mlp/wo/kernel"
  params[name] = params[name].copy()
  params[name][3, 2] = value
  sources.write(str(tmp_path), layout, T5, params.items())
  checkpoint = sources.open_source(str(tmp_path), model=T5)
  theirs = {
    "hf": r"encoder.block.0.layer.1.DenseReluDense.wo.weight",
    "t5x": name,
  }
  place = {"hf": r"\[2, 3\]", "t5x": r"\[3, 2\]"}
  with pytest.raises(
    ValueError,
    match=f"{tmp_path}.*: tensor {theirs[layout]} has the value {value} at "
    + place[layout],
  ):
    read(checkpoint, params)


def test_links_out_of_the_folder_are_refused(tmp_path):
  sources.write(str(tmp_path / "a"), "hf", LLAMA, arrays(LLAMA).items())
  for name in ("config.json", "model.safetensors"):
    folder = tmp_path / name
    shutil.copytree(tmp_path / "a", folder)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "a" / name)
    with pytest.raises(ValueError, match=f"{name} is a link to .*outside"):
      sources.open_source(str(folder))


def test_hugging_faces_cache_has_links_to_its_blobs(tmp_path):
  params = arrays(LLAMA)
  sources.write(str(tmp_path / "a"), "hf", LLAMA, params.items())
  cache = tmp_path / "models--o--n"
  folder = cache / "snapshots" / "0123"
  folder.mkdir(parents=True)
  (cache / "blobs").mkdir()
  for number, path in enumerate((tmp_path / "a").iterdir()):
    path.rename(cache / "blobs" / str(number))
    (folder / path.name).symlink_to(f"../../blobs/{number}")
  assert_same(read(sources.open_source(str(folder)), params), params)
