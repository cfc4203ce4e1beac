# SPDX-License-Identifier: Apache-2.0
"""Memory and peak rates of chips, and the devices of a TPU topology.

Figures are per chip and without sparsity, from cloud.google.com/tpu/docs
(system architecture of each generation) and the H100 and H200 data sheets.
"""

from __future__ import annotations

import dataclasses
import os
import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Memory and peak rates of a chip.

  Attributes:
    name: name in tables.
    memory: bytes of device memory (HBM).
    flops: bfloat16 FLOPs per second.
    memory_bandwidth: bytes per second to and from device memory.
    link_bandwidth: bytes per second that a chip sends to all its neighbours.
  """

  name: str
  memory: float
  flops: float
  memory_bandwidth: float
  link_bandwidth: float


# By device kind, as JAX names it.
CHIPS = {
  "TPU v4": Chip(
    name="TPU v4",
    memory=32e9,
    flops=275e12,
    memory_bandwidth=1228e9,
    link_bandwidth=300e9,
  ),
  "TPU v5 lite": Chip(
    name="TPU v5e",
    memory=16e9,
    flops=197e12,
    memory_bandwidth=819e9,
    link_bandwidth=200e9,
  ),
  "TPU v5": Chip(
    name="TPU v5p",
    memory=95e9,
    flops=459e12,
    memory_bandwidth=2765e9,
    link_bandwidth=600e9,
  ),
  "TPU v6 lite": Chip(
    name="TPU v6e",
    memory=32e9,
    flops=918e12,
    memory_bandwidth=1640e9,
    link_bandwidth=448e9,
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    name="H100 SXM",
    memory=80e9,
    flops=989e12,
    memory_bandwidth=3350e9,
    link_bandwidth=450e9,
  ),
  "NVIDIA H200": Chip(
    name="H200",
    memory=141e9,
    flops=989e12,
    memory_bandwidth=4800e9,
    link_bandwidth=450e9,
  ),
}


def chip_of(device: jax.Device) -> Chip:
  """Returns the chip of a device.

  Raises:
    ValueError: if the chip is unknown.
  """
  kind = device.device_kind
  if kind not in CHIPS:
    raise ValueError(
      f"the memory and the rates of a {kind!r} are not known; set a topology "
      "such as 'v5e:4x4' or a chip, or add it to planner/chips.py, which has "
      f"{sorted(CHIPS)}"
    )
  return CHIPS[kind]


def chip_named(name: str) -> Chip:
  """Returns the chip with a name such as "H100 SXM".

  Raises:
    ValueError: if the chip is unknown.
  """
  named = {chip.name: chip for chip in CHIPS.values()}
  if name not in named:
    raise ValueError(f"chip is {name!r}; use one of {sorted(named)}")
  return named[name]


def devices_of(topology: str) -> list[jax.Device]:
  """Returns the devices of a TPU topology such as "v5e:4x4".

  A topology needs the TPU compiler but no TPU; "" gives the devices of this
  process.

  Raises:
    ImportError: if the TPU compiler (libtpu) is not installed.
    ValueError: if there is no such topology.
  """
  if not topology:
    return jax.devices()
  try:
    import libtpu
  except ImportError as error:
    raise ImportError(
      "the TPU compiler is not installed; type: pip install 'rlaif_jax[tpu]'"
    ) from error
  del libtpu  # JAX loads it.
  # Without this libtpu waits for the metadata server of a TPU machine.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Only one process may use a TPU, but any number may compile for one.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except (jax.errors.JaxRuntimeError, NotImplementedError, KeyError) as error:
    raise ValueError(
      f"topology is {topology!r}: {str(error).splitlines()[0]:.200}. Use "
      "a topology such as 'v5e:4x4', 'v5p:2x2x2' or 'v6e:8x8'"
    ) from error
  return list(found.devices)
