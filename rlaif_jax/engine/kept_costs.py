# SPDX-License-Identifier: Apache-2.0
"""Costs of programs that were compiled before, so that none is compiled twice.

A plan takes minutes of compiling per program. One that was stopped goes on
where it was, and one that shares programs with another (the updates of RLAIF
and of direct RLAIF are the same) compiles only its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any, Callable, Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import versions
from rlaif_jax.engine import chips
from rlaif_jax.engine import programs


class KeptCosts:
  """Costs by a program's text, in a folder.

  A cost is found again for the same program, options of the compiler, devices,
  chip and versions of what compiles; whatever of these changes, it is compiled.

  Fields:
    devices: that programs are compiled for.
    chip: what costs are judged by.
  """

  def __init__(self, folder: str, devices: Sequence[Any], chip: chips.Chip):
    """`folder` is made when there is something to keep; "" keeps nothing."""
    self._folder = pathlib.Path(folder) if folder else None
    self.chip = chip
    self.devices = list(devices)
    # Which device is the neighbour of which changes what is sent, and how.
    places = [(d.device_kind, getattr(d, "coords", d.id)) for d in devices]
    compilers = versions.installed(("jax", "jaxlib", "libtpu"))
    self._setting = [places, dataclasses.asdict(chip), compilers]

  def cost(
    self,
    lowered: Any,
    options: Mapping[str, str] | None,
    note: Callable[[], None],
  ) -> programs.Cost:
    """Of a program.

    Args:
      lowered: has `as_text()` and `compile(compiler_options=)`.
      options: of the compiler.
      note: is called before something is compiled.
    """
    path = self._path(lowered, options)
    if path and path.exists():
      return _read(json.loads(path.read_text()))
    note()
    for_tpu = any(device.platform == "tpu" for device in self.devices)
    compiled, text = programs.compiled_with_text(
      lowered, options, for_tpu=for_tpu
    )
    found = programs.cost(compiled, self.chip, text)
    if path:
      jsonl.write_text(path, json.dumps(dataclasses.asdict(found)) + "\n")
    return found

  def _path(self, lowered, options) -> pathlib.Path | None:
    """Of a program's cost; None: it is not kept."""
    if self._folder is None:
      return None
    described = json.dumps([self._setting, options], sort_keys=True)
    key = hashlib.sha256((described + lowered.as_text()).encode()).hexdigest()
    return self._folder / f"{key[:32]}.json"


def _read(fields: dict[str, Any]) -> programs.Cost:
  collectives = (programs.Collective(**c) for c in fields.pop("collectives"))
  return programs.Cost(collectives=tuple(collectives), **fields)
