# SPDX-License-Identifier: Apache-2.0
"""Known chips, and topologies of TPUs that do not exist here."""

from __future__ import annotations

import builtins

import jax
import pytest

from rlaif_jax.planner import chips


def test_devices_of_this_process(monkeypatch):
  with pytest.raises(ValueError, match="the rates of a .* are not known"):
    chips.find("")
  chip = chips.CHIPS["TPU v5 lite"]
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(chips.CHIPS, kind, chip)
  assert chips.find("") == (jax.devices(), chip)


def test_chips_have_names():
  devices, chip = chips.find("H100 SXM")
  assert devices == jax.devices() and chip.memory == 80e9
  with pytest.raises(ValueError, match=r"topology is 'H99'.*'H100 SXM'"):
    chips.find("H99")


def test_no_memory_is_slower_than_its_links():
  for chip in chips.CHIPS.values():
    assert chip.link_bandwidth < chip.memory_bandwidth < chip.flops
    assert 10e9 < chip.memory < 200e9


def test_without_the_compiler_it_says_what_to_type(monkeypatch):
  real = builtins.__import__

  def without(name, *rest):
    if name == "libtpu":
      raise ImportError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ImportError, match=r"pip install 'rlaif_jax\[tpu\]'"):
    chips.find("v5e:4x4")


def test_topologies_of_the_real_compiler():
  pytest.importorskip("libtpu")
  for topology, count, name in (
    ("v5e:4x4", 16, "TPU v5e"),
    ("v5p:2x2x2", 8, "TPU v5p"),
    ("v6e:4x4", 16, "TPU v6e"),
  ):
    devices, chip = chips.find(topology)
    assert len(devices) == count and chip.name == name
  with pytest.raises(ValueError, match="Use a topology such as"):
    chips.find("v5e:4by4")
