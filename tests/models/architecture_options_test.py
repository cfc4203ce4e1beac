# SPDX-License-Identifier: Apache-2.0
"""Fields of the families, and rotary frequencies by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.models import architecture_options


def test_every_sixth_layer_of_a_windowed_model_sees_everything():
  gemma = architecture_options.ArchitectureOptions(window=4, global_every=6)
  assert [gemma.is_local(n) for n in range(12)] == ([True] * 5 + [False]) * 2
  assert not architecture_options.ArchitectureOptions(global_every=6).is_local(
    0
  )
  assert architecture_options.ArchitectureOptions(window=4).is_local(5)


def test_linear_scaling_divides_every_frequency():
  plain = architecture_options.rope_frequencies(8, 100.0, None)
  np.testing.assert_allclose(plain, [100 ** (-i / 4) for i in range(4)], 1e-6)
  scaling = architecture_options.RopeScaling(kind="linear", factor=8.0)
  np.testing.assert_allclose(
    architecture_options.rope_frequencies(8, 100.0, scaling),
    plain / 8,
    rtol=1e-6,
  )


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones():
  scaling = architecture_options.RopeScaling(
    kind="llama3", factor=8.0, original_length=8192
  )
  plain = np.asarray(architecture_options.rope_frequencies(128, 5e5, None))
  scaled = np.asarray(architecture_options.rope_frequencies(128, 5e5, scaling))
  waves = 2 * math.pi / plain
  short, long = waves < 8192 / 4, waves > 8192
  assert short.any() and long.any() and (~short & ~long).any()
  np.testing.assert_allclose(scaled[short], plain[short], rtol=1e-6)
  np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
  between = ~short & ~long
  assert (scaled[between] < plain[between]).all()
  assert (scaled[between] > plain[between] / 8).all()


def test_soft_cap():
  np.testing.assert_allclose(
    architecture_options.soft_cap(np.float32(3.0), 0.0), 3.0
  )
  assert float(
    architecture_options.soft_cap(np.float32(1e6), 30.0)
  ) == pytest.approx(30.0)
  assert float(
    architecture_options.soft_cap(np.float32(0.1), 30.0)
  ) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
  "fields, word",
  [
    ({"activation": "relu"}, "activation"),
    ({"window": -1}, "window"),
    ({"logit_softcap": -1.0}, "logit_softcap"),
  ],
)
def test_bad_fields_are_named(fields, word):
  with pytest.raises(ValueError, match=word):
    architecture_options.ArchitectureOptions(**fields)


@pytest.mark.parametrize(
  "fields, word",
  [
    ({"kind": "longrope", "factor": 2.0}, "kind"),
    ({"kind": "linear", "factor": 0.5}, "factor"),
    (
      {"kind": "llama3", "factor": 2.0, "low_frequency_factor": 5.0},
      "low_frequency_factor",
    ),
  ],
)
def test_bad_scaling_is_named(fields, word):
  with pytest.raises(ValueError, match=word):
    architecture_options.RopeScaling(**fields)
