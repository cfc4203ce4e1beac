# SPDX-License-Identifier: Apache-2.0
"""Scanned T5X checkpoints, stacked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.interop import names
from rlaif_jax.interop import sources
from rlaif_jax.interop import t5x_files
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from tests import testing

CONFIG = t5.T5Config(
  vocab_size=13,
  width=6,
  num_layers=3,
  num_decoder_layers=2,
  num_heads=2,
  head_dim=4,
  mlp_dim=5,
  max_length=64,
  activation="gelu",
)
LAYERS = {"encoder": 3, "decoder": 2}
BIAS = "encoder/encoder/relpos_bias/rel_embedding"


@pytest.fixture(scope="module")
def params():
  tree = testing.build(architectures.language(CONFIG))
  return {path: np.asarray(x) for path, x in names.flatten(tree).items()}


def by_hand(params):
  """Array [a, layers, b] of each parameter of the layers."""
  whole = {}
  for name, array in params.items():
    stack = name.split("/")[0]
    if "layers_" not in name and "relpos" not in name:
      whole[name] = array
      continue
    rest = name.split("/", 2 if "layers_" in name else 1)[-1]
    parts = [
      params.get(f"{stack}/layers_{n}/{rest}", array)
      for n in range(LAYERS[stack])
    ]
    whole[f"{stack}/{stack}/{rest}"] = np.moveaxis(np.array(parts), 0, 1)
  return whole


def opened(path, config=CONFIG):
  checkpoint = sources.open_source(str(path), model=config)
  functions = architectures.language(config)
  wanted = {
    k: v.shape for k, v in names.flatten(testing.build(functions)).items()
  }
  checkpoint.check(wanted)
  return dict(checkpoint.read())


def test_reads_what_is_stacked_by_hand(tmp_path, params):
  t5x_files.write_legacy(tmp_path, 3, by_hand(params).items())
  found = opened(tmp_path)
  assert found.keys() == params.keys()
  for name, array in params.items():
    np.testing.assert_array_equal(found[name], array)


def test_writes_what_is_stacked_by_hand(tmp_path, params):
  sources.write(str(tmp_path), "t5x_scanned", CONFIG, params.items(), step=3)
  written = t5x_files.open_checkpoint(tmp_path)
  expected = by_hand(params)
  assert written.step == 3 and set(written.shapes()) == set(expected)
  assert written.shapes()["encoder/encoder/mlp/wi_0/kernel"] == (6, 3, 5)
  for name, array in expected.items():
    np.testing.assert_array_equal(written.read(name), array)


def test_what_does_not_fit_is_told_by_tensor(tmp_path, params):
  changed = by_hand(params)
  changed[BIAS] = changed[BIAS] + np.arange(3.0)[None, :, None]
  t5x_files.write_legacy(tmp_path, 3, changed.items())
  with pytest.raises(ValueError, match=f"{BIAS}: the layers have different"):
    opened(tmp_path)
  other = CONFIG.__class__(**{**vars(CONFIG), "num_layers": 4})
  with pytest.raises(
    ValueError, match="3 layers on axis 1; .* has 4 in the en"
  ):
    opened(tmp_path, other)
