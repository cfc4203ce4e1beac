# SPDX-License-Identifier: Apache-2.0
"""Checks the model.json of a finished model."""

from __future__ import annotations

from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.models import architectures
from rlaif_jax.reward import ensemble as ensemble_lib


def configs(
  description: records.Row, kind: str
) -> tuple[
  architectures.Config,
  converters.SequenceConfig,
  ensemble_lib.EnsembleConfig | None,
]:
  """Returns the config, the sequence and the ensemble of a model.json.

  Args:
    description: content of the file.
    kind: expected kind of the model.

  Raises:
    ValueError: a field is missing or has another type, or the model is of
      another kind.
  """
  for name in ("name", "kind", "architecture", "vocabulary"):
    parsing.field(description, name, str)
  chat = description.get("chat")
  if not isinstance(chat, list) or len(chat) != 2:
    raise ValueError(f"chat is {chat!r:.60}; it must be a list of two texts")
  for number, text in enumerate(chat):
    parsing.field({f"chat[{number}]": text}, f"chat[{number}]", str)
  if description["kind"] != kind:
    raise ValueError(
      f"it holds a {description['kind']} model and this job needs a "
      f"{kind} one (train_sft and convert make language models, train_reward "
      "scalar ones, train_ensemble ensembles)"
    )
  name = description["architecture"]
  if name not in architectures.ARCHITECTURES:
    known = sorted(architectures.ARCHITECTURES)
    raise ValueError(f"architecture is {name!r:.60}; use one of {known}")
  architecture = architectures.ARCHITECTURES[name]
  is_ensemble = kind == "ensemble"
  return (
    records.from_row(architecture.config, description.get("config")),
    records.from_row(converters.SequenceConfig, description.get("sequence")),
    records.from_row(ensemble_lib.EnsembleConfig, description.get("ensemble"))
    if is_ensemble
    else None,
  )
