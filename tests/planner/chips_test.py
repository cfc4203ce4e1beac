# SPDX-License-Identifier: Apache-2.0
"""Known chips, and topologies of TPUs that do not exist here."""

from __future__ import annotations

import builtins
import types

import jax
import pytest

from rlaif_jax.planner import chips
from tests import testing


def test_devices_of_this_process():
  assert chips.devices_of("") == jax.devices()


def test_an_unknown_chip_is_named():
  with pytest.raises(ValueError, match="the rates of a .* are not known"):
    chips.chip_of(jax.devices()[0])
  device = types.SimpleNamespace(device_kind="TPU v5 lite")
  assert chips.chip_of(device).name == "TPU v5e"


def test_chips_have_names():
  assert chips.chip_named("H100 SXM").memory == 80e9
  with pytest.raises(ValueError, match=r"chip is 'H99'; use one of"):
    chips.chip_named("H99")


def test_no_memory_is_slower_than_its_links():
  for chip in chips.CHIPS.values():
    assert chip.link_bandwidth < chip.memory_bandwidth < chip.flops
    assert 10e9 < chip.memory < 200e9


def test_a_missing_compiler_is_an_error_with_the_command(monkeypatch):
  real = builtins.__import__

  def without(name, *rest):
    if name == "libtpu":
      raise ImportError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ImportError, match=r"pip install 'rlaif_jax\[tpu\]'"):
    chips.devices_of("v5e:4x4")


def test_topologies_of_the_real_compiler():
  testing.need_tpu_compiler()
  for topology, count, name in (
    ("v5e:4x4", 16, "TPU v5e"),
    ("v5p:2x2x2", 8, "TPU v5p"),
    ("v6e:4x4", 16, "TPU v6e"),
  ):
    devices = chips.devices_of(topology)
    assert len(devices) == count and chips.chip_of(devices[0]).name == name
  with pytest.raises(ValueError, match="Use a topology such as"):
    chips.devices_of("v5e:4by4")
