# SPDX-License-Identifier: Apache-2.0
"""Public layouts become finished models that every job reads, and back."""

from __future__ import annotations

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import main
from rlaif_jax.core import inputs
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.interop import sources
from rlaif_jax.jobs import convert_checkpoint
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from tests import testing

CHAT = (
  "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>\n"
  "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
LLAMA = testing.tiny_decoder(320)
T5 = t5.T5Config(
  vocab_size=328,
  width=16,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  max_length=2048,
  activation="gelu",
)
SEQUENCE = converters.SequenceConfig(max_context=24, max_response=8)


def devices():
  return mesh.make_mesh("data:1", jax.devices()[:1])


def arrays(config, dtype=jnp.float32):
  params = testing.build(architectures.language(config))
  return {
    path: np.asarray(leaf.astype(dtype))
    for path, leaf in names.flatten(params).items()
  }


def hf_model(world, directory, config=LLAMA, dtype=jnp.float32):
  """A Hugging Face directory with the tiny world's vocabulary."""
  params = arrays(config, dtype)
  sources.write(str(directory), "hf", config, params.items())
  shutil.copyfile(world / "tokenizer.model", directory / "tokenizer.model")
  return params


def convert(source, directory, **changes):
  settings = dict(
    output_dir=str(directory), source=str(source), sequence=SEQUENCE
  )
  return convert_checkpoint.run(**{**settings, **changes})


def test_a_converted_model_is_the_model(world, tmp_path):
  params = hf_model(world, tmp_path / "hf")
  read = []
  with inputs.recording(read.append):
    result = convert(tmp_path / "hf", tmp_path / "ours", name="tiny")
  assert set(map(str, read)) == set(map(str, (tmp_path / "hf").iterdir()))
  assert result["source_layout"] == "hf" and not result["chat"]
  assert result["parameters"] == sum(a.size for a in params.values())
  model = pretrained.load(
    str(tmp_path / "ours" / "model"), "language", devices()
  )
  assert model.name == "tiny" and model.config == LLAMA
  for path, leaf in names.flatten(model.params).items():
    np.testing.assert_array_equal(leaf, params[path])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_bit_equal(world, tmp_path, dtype):
  hf_model(world, tmp_path / "hf", dtype=jnp.dtype(dtype))
  convert(tmp_path / "hf", tmp_path / "ours")
  convert(tmp_path / "ours" / "model", tmp_path / "back", format="hf")
  one = safetensors_files.SafetensorsSource(tmp_path / "hf")
  other = safetensors_files.SafetensorsSource(tmp_path / "back" / "model")
  assert one.shapes() == other.shapes()
  for name in one.shapes():
    assert one.read(name).dtype == other.read(name).dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(one.read(name), other.read(name))
  assert (tmp_path / "back" / "model" / "tokenizer.model").exists()


def test_t5x_there_and_back(world, tmp_path):
  params = arrays(T5)
  sources.write(str(tmp_path / "t5x"), "t5x", T5, params.items())
  read = []
  with inputs.recording(read.append):
    convert(
      tmp_path / "t5x", tmp_path / "ours", model=T5, tokenizer_dir=str(world)
    )
  files = [path for path in (tmp_path / "t5x").rglob("*") if path.is_file()]
  assert {*files, world / "tokenizer.model"} <= set(map(pathlib.Path, read))
  convert(tmp_path / "ours" / "model", tmp_path / "back", format="t5x")
  again = sources.open_source(str(tmp_path / "back" / "model"), model=T5)
  again.check({path: array.shape for path, array in params.items()})
  for path, array in again.read():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, params[path])


def test_a_chat_template_goes_around_the_prompt(world, tmp_path):
  hf_model(world, tmp_path / "hf")
  config = {"chat_template": CHAT}
  path = tmp_path / "hf" / "tokenizer_config.json"
  path.write_text(json.dumps(config))
  (tmp_path / "hf" / "chat_template.jinja").write_text(CHAT)
  sequence = converters.SequenceConfig(
    max_context=24, max_response=8, prefix="Sum up: "
  )
  result = convert(
    tmp_path / "hf", tmp_path / "ours", sequence=sequence, system="Be brief."
  )
  assert result["chat"]
  model = pretrained.load(
    str(tmp_path / "ours" / "model"), "language", devices()
  )
  assert model.chat[0].endswith("<user>") and "Be brief." in model.chat[0]
  assert model.sequence.prefix == model.chat[0] + "Sum up: "
  assert model.sequence.suffix == model.chat[1] == "</s>\n<assistant>"
  backend = model.backend()
  text = model.tokenizer.decode(backend.encode("the cat"))
  assert text.replace(" ", "").endswith("thecat\n<assistant>") or (
    "the cat" in text
  )


def test_a_tokenizer_of_another_size_is_refused(world, tmp_path):
  bigger = testing.tiny_decoder(2000)
  hf_model(world, tmp_path / "hf", bigger)
  with pytest.raises(ValueError, match="320 pieces and the model 2000"):
    convert(tmp_path / "hf", tmp_path / "ours")
  smaller = testing.tiny_decoder(319)
  hf_model(world, tmp_path / "small", smaller)
  with pytest.raises(ValueError, match="320 pieces and the model 319"):
    convert(tmp_path / "small", tmp_path / "ours2")


def test_a_model_without_tokenizer_is_refused(world, tmp_path):
  hf_model(world, tmp_path / "hf")
  (tmp_path / "hf" / "tokenizer.model").unlink()
  with pytest.raises(ValueError, match="tokenizer.model"):
    convert(tmp_path / "hf", tmp_path / "ours")
  result = convert(tmp_path / "hf", tmp_path / "ours", tokenizer_dir=str(world))
  assert result["vocabulary"] == 320


def test_unknown_choices_are_named(tmp_path):
  with pytest.raises(ValueError, match="onnx"):
    convert(tmp_path, tmp_path / "ours", format="onnx")
  with pytest.raises(ValueError, match="int8"):
    convert_checkpoint.DtypeConfig(param_dtype="int8")


def files_below(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize(
  "job, flags",
  [
    ("convert", {"source": "run/model"}),
    ("convert", {"source": "hf", "tokenizer_dir": "run/tokenizer"}),
    ("convert", {"source": "run/model", "format": "hf"}),
    ("convert", {"source": "ours/model", "format": "hf"}),
    ("convert", {"source": "link"}),
    ("convert", {"source": "none"}),
    ("train_sft", {"init_from": "run/model", "examples_file": "x.jsonl"}),
  ],
)
def test_no_command_touches_what_is_in_the_folder(
  world, tmp_path, monkeypatch, capsys, job, flags
):
  monkeypatch.chdir(tmp_path)
  hf_model(world, tmp_path / "hf")
  hf_model(world, tmp_path / "run" / "model")
  shutil.copytree(world / "sft" / "model", tmp_path / "ours" / "model")
  (tmp_path / "run" / "tokenizer").mkdir()
  shutil.copy(world / "tokenizer.model", tmp_path / "run" / "tokenizer")
  (tmp_path / "link").symlink_to(tmp_path / "run" / "model")
  before = files_below(tmp_path)
  given = [f"--{name}={value}" for name, value in flags.items()]
  assert main.main([f"--job={job}", *given, "--output_dir=run"]) == 2
  assert "run is not empty" in capsys.readouterr().err
  assert files_below(tmp_path) == before


def test_the_job_itself_refuses_its_source_as_target(world, tmp_path):
  shutil.copytree(world / "sft" / "model", tmp_path / "run" / "model")
  before = files_below(tmp_path)
  with pytest.raises(ValueError, match="use another --output_dir"):
    convert(tmp_path / "run" / "model", tmp_path / "run", format="hf")
  with pytest.raises(ValueError, match="use another --output_dir"):
    convert(
      world / "sft" / "model",
      tmp_path / "run",
      tokenizer_dir=str(tmp_path / "run" / "model"),
    )
  hf_model(world, tmp_path / "out" / "model")
  with pytest.raises(ValueError, match="files that no job has written"):
    convert(world / "sft" / "model", tmp_path / "out", format="hf")
  shutil.rmtree(tmp_path / "out")
  assert files_below(tmp_path) == before


def test_an_export_that_fails_leaves_the_one_before(
  world, tmp_path, monkeypatch
):
  source, target = world / "sft" / "model", tmp_path / "hf"
  convert(source, target, format="hf")
  before = files_below(target)

  def full(*_, **_options):
    raise OSError("disk is full")

  with monkeypatch.context() as patch:
    patch.setattr(sources, "write", full)
    with pytest.raises(OSError, match="disk is full"):
      convert(source, target, format="hf")
  assert files_below(target) == before
  convert(source, target, format="hf")  # A run that had no result yet.
  assert files_below(target) == before
