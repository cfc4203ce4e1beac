# SPDX-License-Identifier: Apache-2.0
"""What a chip can do, and topologies of chips that are not here.

Figures are per chip, dense, from the makers' pages: cloud.google.com/tpu/docs
(system architecture of each generation) and the H100 and H200 data sheets.
`link_bytes` is what a chip sends per second to all its neighbours together.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """memory in bytes; flops of bfloat16, bytes of memory and links a second."""

  name: str
  memory: float
  flops: float
  memory_bytes: float
  link_bytes: float


# By what JAX calls the device.
CHIPS = {
  "TPU v4": Chip(
    name="TPU v4",
    memory=32e9,
    flops=275e12,
    memory_bytes=1228e9,
    link_bytes=300e9,
  ),
  "TPU v5 lite": Chip(
    name="TPU v5e",
    memory=16e9,
    flops=197e12,
    memory_bytes=819e9,
    link_bytes=200e9,
  ),
  "TPU v5": Chip(
    name="TPU v5p",
    memory=95e9,
    flops=459e12,
    memory_bytes=2765e9,
    link_bytes=600e9,
  ),
  "TPU v6 lite": Chip(
    name="TPU v6e",
    memory=32e9,
    flops=918e12,
    memory_bytes=1640e9,
    link_bytes=448e9,
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    name="H100 SXM",
    memory=80e9,
    flops=989e12,
    memory_bytes=3350e9,
    link_bytes=450e9,
  ),
  "NVIDIA H200": Chip(
    name="H200",
    memory=141e9,
    flops=989e12,
    memory_bytes=4800e9,
    link_bytes=450e9,
  ),
}


def chip_of(device: Any) -> Chip:
  """The chip of a device.

  Raises:
    ValueError: nothing is known of it.
  """
  kind = device.device_kind
  if kind not in CHIPS:
    raise ValueError(
      f"nothing is known of the speed of a {kind!r}; give a topology such as "
      f"'v5e:4x4', or add it to planner/chips.py, which has {sorted(CHIPS)}"
    )
  return CHIPS[kind]


def chip_named(name: str) -> Chip:
  """The chip of a name such as "H100 SXM".

  Raises:
    ValueError: there is none.
  """
  for chip in CHIPS.values():
    if chip.name == name:
      return chip
  names = sorted(chip.name for chip in CHIPS.values())
  raise ValueError(f"chip is {name!r}; it should be one of {names}")


def devices_of(topology: str) -> list[Any]:
  """Devices of a TPU topology such as "v5e:4x4"; "" are those of this process.

  TPU topologies need the TPU compiler, not a TPU.

  Raises:
    ImportError: the compiler (libtpu) is not installed.
    ValueError: no such topology.
  """
  if not topology:
    return jax.devices()
  try:
    import libtpu
  except ImportError as error:
    raise ImportError(
      "the TPU compiler is not installed; type: pip install 'rlaif_jax[tpu]'"
    ) from error
  del libtpu  # JAX finds it by itself.
  # Else it waits for the metadata server of a TPU machine.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Only one process may have a TPU, but any number may compile for one.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except (jax.errors.JaxRuntimeError, NotImplementedError, KeyError) as error:
    raise ValueError(
      f"topology is {topology!r}: {str(error).splitlines()[0]:.200}. It "
      "should be like 'v5e:4x4', 'v5p:2x2x2' or 'v6e:8x8'"
    ) from error
  return list(found.devices)
