# SPDX-License-Identifier: Apache-2.0
"""A planned run of tiny models, and a cost, for tests of the planner."""

from __future__ import annotations

import dataclasses

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.engine import optimizer
from rlaif_jax.models import t5
from rlaif_jax.planner import program_costs
from rlaif_jax.planner import run_spec
from rlaif_jax.rl import algorithms
from tests import testing

DECODER = testing.tiny_decoder(
  64, width=32, mlp_dim=96, num_heads=4, num_kv_heads=4, head_dim=8
)
SAMPLING = decode.SamplingConfig(max_tokens=12, temperature=0.9)
# Frozen models are stored in bfloat16.
_HALF = compute_lib.Placement(dtype="bfloat16")
BFLOAT16 = {
  "placement": compute_lib.PlacementConfig(reference=_HALF),
  "scorer_placement": _HALF,
}
T5 = t5.T5Config(
  vocab_size=32,
  width=16,
  num_heads=2,
  num_layers=1,
  num_decoder_layers=1,
  head_dim=8,
  mlp_dim=16,
  max_length=128,
)


def rl(**changes):
  """An RLConfig with short responses."""
  return algorithms.RLConfig(**{"sampling": SAMPLING, **changes})


def settings(model=DECODER, **changes):
  """The settings of a RunSpec; changes may be of its parts' fields."""
  parts = {
    "models": (run_spec.PlanModels, {"policy": model, "labeler_tokens": 8}),
    "phases": (
      run_spec.PlanPhases,
      {"sft_updates": 1, "reward_updates": 1, "policy_updates": 1},
    ),
    "compute": (compute_lib.ComputeConfig, {}),
  }
  if "phases" not in changes:
    changes = {"batch_size": 16, **changes}
  values = {
    "sequence": converters.SequenceConfig(max_context=48, max_response=16),
    "rl": rl(),
    "optimizer": optimizer.OptimizerConfig(name="adamw"),
  }
  for name, (cls, defaults) in parts.items():
    fields = {field.name for field in dataclasses.fields(cls)}
    own = {key: changes.pop(key) for key in fields & set(changes)}
    values[name] = cls(**{**defaults, **own})
  return {**values, **changes}


def spec(model=DECODER, **changes):
  """A RunSpec; see `settings`."""
  return run_spec.RunSpec(**settings(model, **changes))


def cost_of_ones(**changes):
  """A Cost whose numbers are 1 but for the changes."""
  fields = [f.name for f in dataclasses.fields(program_costs.Cost)]
  return program_costs.Cost(
    **{**dict.fromkeys(fields, 1.0), "collectives": (), **changes}
  )
