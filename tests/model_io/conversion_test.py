# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints are loaded without a job, and nothing is written."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.data import converters
from rlaif_jax.engine import mesh
from rlaif_jax.interop import names
from rlaif_jax.interop import sources
from rlaif_jax.interop import t5x_files
from rlaif_jax.model_io import conversion
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from tests import testing

LLAMA = testing.tiny_decoder(320)
SEQUENCE = converters.SequenceConfig(max_context=24, max_response=8)


@pytest.fixture()
def device():
  return mesh.make_mesh("data:1", jax.devices()[:1])


@pytest.fixture(scope="module")
def params():
  tree = testing.build(architectures.language(LLAMA))
  return {path: np.asarray(x) for path, x in names.flatten(tree).items()}


@pytest.fixture()
def hf(world, params, tmp_path):
  """A Hugging Face directory with the tiny world's vocabulary."""
  sources.write(str(tmp_path / "hf"), "hf", LLAMA, params.items())
  shutil.copyfile(
    world / "tokenizer.model", tmp_path / "hf" / "tokenizer.model"
  )
  return tmp_path / "hf"


def assert_same(model, params):
  found = names.flatten(model.params)
  assert found.keys() == params.keys()
  for path, leaf in found.items():
    np.testing.assert_array_equal(leaf, params[path])


def test_a_hugging_face_directory_is_a_model(hf, params, device):
  before = sorted(path.name for path in hf.iterdir())
  model = conversion.load(str(hf), device, sequence=SEQUENCE)
  assert_same(model, params)
  assert (model.config, model.sequence, model.name) == (LLAMA, SEQUENCE, "hf")
  assert model.tokenizer.decode(model.tokenizer.encode("the cat")) == "the cat"
  assert sorted(path.name for path in hf.iterdir()) == before


def test_a_gguf_file_is_a_model(world, params, tmp_path, device):
  pytest.importorskip("gguf")
  testing.write_gguf(
    tmp_path / "m.gguf", LLAMA, params, vocabulary=world / "tokenizer.model"
  )
  model = conversion.load(str(tmp_path / "m.gguf"), device, sequence=SEQUENCE)
  assert_same(model, params)
  own = pretrained.load(str(world / "sft" / "model"), "language", device)
  text = "the cat saw\none hat"
  assert model.tokenizer.encode(text) == own.tokenizer.encode(text)
  assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_finished_model_is_a_model(world, device):
  directory = str(world / "sft" / "model")
  model = conversion.load(directory, device)
  assert_same(
    model,
    names.flatten(pretrained.load(directory, "language", device).params),
  )


def test_a_loaded_model_is_saved_as_a_finished_one(
  hf, params, tmp_path, device
):
  """Its tokenizer's files are no longer needed by then."""
  model = conversion.load(str(hf), device, sequence=SEQUENCE)
  shutil.rmtree(hf)
  target = str(tmp_path / "model")
  model.save(target)
  again = pretrained.load(target, "language", device)
  assert_same(again, params)
  assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
  assert again.identity == model.identity


def test_a_tensor_with_nan_is_refused_by_name(hf, params, device):
  bad = {path: np.array(x) for path, x in params.items()}
  bad["embedding/table"][3, :2] = np.nan
  sources.write(str(hf), "hf", LLAMA, bad.items())
  with pytest.raises(ValueError, match="hf: tensor .*embed.* the value nan"):
    conversion.load(str(hf), device, sequence=SEQUENCE)


def test_every_parameter_goes_to_its_shards(hf):
  grid = mesh.make_mesh("fsdp:2,model:2", jax.devices()[:4])
  checkpoint = sources.open_source(str(hf))
  params = conversion.read_params(checkpoint, grid, "auto")
  table = params["embedding"]["table"]
  assert table.sharding.shard_shape(table.shape) == (160, 8)
  assert table.dtype == jnp.float32


def test_dtypes(hf, device):
  model = conversion.load(
    str(hf),
    device,
    sequence=SEQUENCE,
    dtype="bfloat16",
    compute_dtype="bfloat16",
  )
  leaves = jax.tree.leaves(model.params)
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
  assert model.config.dtype == "bfloat16"
  with pytest.raises(ValueError, match="int8"):
    conversion.load(str(hf), device, sequence=SEQUENCE, dtype="int8")


def test_a_prompt_that_does_not_fit_is_refused_before_reading(hf, device):
  with pytest.raises(ValueError, match="max_context"):
    conversion.load(str(hf), device)  # 512 tokens of context.


def test_special_tokens_without_a_row_are_dropped(tmp_path):
  tokens = [
    {"id": 7, "content": "<image>", "special": True},
    {"id": 3, "content": "<end>", "special": True},
  ]
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps({"added_tokens": tokens, "model": {}}))
  conversion.drop_tokens_without_rows(str(tmp_path), 7)
  assert json.loads(path.read_text())["added_tokens"] == tokens[1:]


def test_errors_name_the_users_file_and_no_copy(hf, device):
  (hf / "tokenizer.model").write_bytes(b"damaged")
  with pytest.raises(ValueError, match=f"{hf}/tokenizer.model: it is no Sent"):
    conversion.load(str(hf), device, sequence=SEQUENCE)


def test_a_tokenizer_outside_of_the_folder_is_refused(world, hf, device):
  (hf / "tokenizer.model").unlink()
  (hf / "tokenizer.model").symlink_to(world / "tokenizer.model")
  with pytest.raises(ValueError, match="tokenizer.model is a link to"):
    conversion.load(str(hf), device, sequence=SEQUENCE)


def test_a_weight_that_is_nan_is_refused(hf, device):
  path = hf / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-4] + b"\0\0\xc0\x7f")
  with pytest.raises(ValueError, match=f"{hf}: tensor .* has the value nan"):
    conversion.load(str(hf), device, sequence=SEQUENCE)


T5 = t5.T5Config(
  vocab_size=328,
  width=16,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  max_length=2048,
  activation="silu",
)


@pytest.fixture
def t5x(world, tmp_path):
  """A T5X checkpoint of step 12 with eight ids more than the vocabulary."""
  tree = names.flatten(testing.build(architectures.language(T5)))
  tree["decoder/logits_dense/kernel"] = (
    tree["decoder/logits_dense/kernel"].at[:, 320:].set(9.0)
  )
  arrays = {path: np.asarray(x) for path, x in tree.items()}
  sources.write(str(tmp_path / "t5x"), "t5x", T5, arrays.items(), step=12)
  path = tmp_path / "t5x" / "checkpoint_12"
  shutil.copyfile(world / "tokenizer.model", path / "sentencepiece.model")
  return path


def test_ids_without_a_piece_are_never_sampled(t5x, device):
  """Also not by the log-probs, which training and sampling share."""
  model = conversion.load(str(t5x), device, model=T5, sequence=SEQUENCE)
  assert model.config.num_pieces == 320 == model.tokenizer.vocab_size
  prompts = model.encode(["the cat sat", "a mat"])
  samples = model.generate(
    prompts, jax.random.key(0), num_samples=8, temperature=2.0
  )
  assert np.asarray(samples.response).max() < 320
  assert len(model.decode(samples)) == 2
  logits = model.functions.logits(model.params, jnp.ones((1, 16)))
  probs = jax.nn.softmax(logits)
  assert probs[0, 320:].sum() == 0 and np.isclose(probs[0, :320].sum(), 1)
  bare = architectures.language(T5).logits(model.params, jnp.ones((1, 16)))
  assert jax.nn.softmax(bare)[0, 320:].sum() > 0.9


def test_text_of_ids_without_a_piece_is_empty(t5x, device):
  model = conversion.load(str(t5x), device, model=T5, sequence=SEQUENCE)
  ids = model.tokenizer.encode("the cat")
  assert model.tokenizer.decode([*ids, 320, 327, 32127]) == "the cat"


def test_a_t5x_checkpoint_keeps_its_step(t5x, tmp_path, device):
  model = conversion.load(str(t5x), device, model=T5, sequence=SEQUENCE)
  model.save(str(tmp_path / "model"))
  again = pretrained.load(str(tmp_path / "model"), "language", device)
  assert again.step == 12 and again.identity == model.identity
  conversion.export(again, str(tmp_path / "back"), "t5x")
  written = t5x_files.open_checkpoint(tmp_path / "back")
  assert written.step == 12
  original = t5x_files.open_checkpoint(t5x)
  for name in original.shapes():
    np.testing.assert_array_equal(written.read(name), original.read(name))


def test_a_t5_export_has_the_file_names_of_transformers(t5x, tmp_path, device):
  model = conversion.load(str(t5x), device, model=T5, sequence=SEQUENCE)
  model.save(str(tmp_path / "model"))
  model = pretrained.load(str(tmp_path / "model"), "language", device)
  conversion.export(model, str(tmp_path / "hf"), "hf")
  written = {path.name for path in (tmp_path / "hf").iterdir()}
  assert {"config.json", "model.safetensors", "spiece.model"} <= written
  values = json.loads((tmp_path / "hf" / "config.json").read_text())
  expected = {
    "feed_forward_proj": "gated-silu",
    "dtype": "float32",
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
  }
  assert {key: values[key] for key in expected} == expected


def test_sizes_of_another_t5x_model_are_told_by_tensor(t5x, device):
  with pytest.raises(ValueError, match="set T5Config.activation"):
    conversion.load(
      str(t5x), device, model=dataclasses.replace(T5, activation="")
    )
  for change, message in (
    (
      {"mlp_dim": 32},
      r"mlp/wi_0/kernel has shape \(16, 24\); the configuration expects "
      r"\(16, 32\)",
    ),
    ({"num_layers": 2}, "tensor encoder/layers_1/.* is missing"),
    ({"num_decoder_layers": 2}, "tensor decoder/layers_1/.* is missing"),
    ({"tie_embeddings": True}, "logits_dense/kernel .* is unexpected"),
    ({"gated": False}, "mlp/wi/kernel is missing"),
  ):
    other = dataclasses.replace(T5, **change)
    with pytest.raises(ValueError, match=f"checkpoint_12: .*{message}"):
      conversion.load(str(t5x), device, model=other, sequence=SEQUENCE)
