# SPDX-License-Identifier: Apache-2.0
"""Kept costs: the same ones, and of nothing but the same program."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.core import versions
from rlaif_jax.engine import chips
from rlaif_jax.engine import kept_costs
from rlaif_jax.engine import mesh as mesh_lib

CHIP = chips.CHIPS["TPU v5 lite"]


def lowered(columns=32, mesh="data:8"):
  """A product whose inner axis is split, so that there is a collective."""
  mesh = mesh_lib.make_mesh(mesh, jax.devices()[:8])
  spec = jax.sharding.PartitionSpec
  axis = next(name for name, size in mesh.shape.items() if size > 1)
  across = jax.sharding.NamedSharding(mesh, spec(None, axis))
  down = jax.sharding.NamedSharding(mesh, spec(axis, None))
  a = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=across)
  b = jax.ShapeDtypeStruct((64, columns), jnp.float32, sharding=down)
  everywhere = jax.sharding.NamedSharding(mesh, spec())
  return jax.jit(lambda a, b: a @ b, out_shardings=everywhere).lower(a, b)


class Counted:
  """Notes how often something was compiled."""

  def __init__(self, folder, devices=None, chip=CHIP):
    self.kept = kept_costs.KeptCosts(
      str(folder) if folder else "", devices or jax.devices()[:8], chip
    )
    self.compiled = 0

  def cost(self, program, options=None):
    return self.kept.cost(program, options, self.note)

  def note(self):
    self.compiled += 1


def test_what_is_kept_is_what_was_compiled(tmp_path):
  first, later = Counted(tmp_path), Counted(tmp_path)
  found = first.cost(lowered())
  assert found.collectives and found.flops > 0
  assert later.cost(lowered()) == found
  assert (first.compiled, later.compiled) == (1, 0)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  counted = Counted("")
  first, later = (counted.cost(lowered()) for _ in range(2))
  assert first == later
  assert counted.compiled == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "program, options, devices, chip",
  [
    (lambda: lowered(columns=16), None, None, CHIP),
    (lambda: lowered(mesh="fsdp:8"), None, None, CHIP),
    (lowered, {"xla_cpu_enable_fast_math": True}, None, CHIP),
    (lowered, None, jax.devices()[7::-1], CHIP),
    (lowered, None, None, dataclasses.replace(CHIP, flops=1.0)),
  ],
  ids=["shapes", "mesh", "options", "devices", "chip"],
)
def test_another_program_is_compiled(tmp_path, program, options, devices, chip):
  Counted(tmp_path).cost(lowered())
  counted = Counted(tmp_path, devices, chip)
  counted.cost(program(), options)
  assert counted.compiled == 1


def test_another_version_compiles_again(tmp_path, monkeypatch):
  Counted(tmp_path).cost(lowered())
  monkeypatch.setattr(versions.importlib.metadata, "version", lambda _: "9")
  counted = Counted(tmp_path)
  counted.cost(lowered())
  assert counted.compiled == 1
