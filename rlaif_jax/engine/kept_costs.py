# SPDX-License-Identifier: Apache-2.0
"""Costs of programs that were compiled before, so that none is compiled twice.

A plan takes minutes of compiling per program. One that was stopped goes on
where it was, and one that shares programs with another (the updates of RLAIF
and of direct RLAIF are the same) compiles only its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any, Callable, Mapping, Sequence

from rlaif_jax.core import jsonl
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
    self._setting = [places, dataclasses.asdict(chip), _versions()]

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
    if self._folder is None:
      note()
      return self._compiled(lowered, options)
    described = json.dumps([self._setting, options], sort_keys=True)
    key = hashlib.sha256((described + lowered.as_text()).encode()).hexdigest()
    path = self._folder / f"{key[:32]}.json"
    if path.exists():
      return _read(json.loads(path.read_text()))
    note()
    found = self._compiled(lowered, options)
    jsonl.write_text(path, json.dumps(dataclasses.asdict(found)) + "\n")
    return found

  def _compiled(self, lowered, options):
    compiled = lowered.compile(compiler_options=options)
    return programs.cost(compiled, self.chip)


def _read(fields: dict[str, Any]) -> programs.Cost:
  collectives = (programs.Collective(**c) for c in fields.pop("collectives"))
  return programs.Cost(collectives=tuple(collectives), **fields)


def _versions() -> dict[str, str]:
  """Of what compiles, where it is installed."""
  found = {}
  for name in ("jax", "jaxlib", "libtpu"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
