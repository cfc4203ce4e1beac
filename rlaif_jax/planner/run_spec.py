# SPDX-License-Identifier: Apache-2.0
"""The configuration of the run that is planned."""

from __future__ import annotations

import dataclasses

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms

PHASES = ("sft", "reward", "policy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanModels(validation.Validated):
  """Sizes of the models of a run, and the placement of the scorer.

  Attributes:
    policy: config of the policy, the reference and the value network.
    reward: config of the reward model; None uses `policy`.
    labeler: config of the labeler that scores responses (d-RLAIF) in place of
      the reward model.
    labeler_is_policy: whether the labeler is the policy's own checkpoint in the
      reference's placement, so that it is kept once.
    labeler_tokens: tokens of the labeler's prompt around context and response.
    scorer_placement: sharding and dtype of the reward model's or the labeler's
      parameters; `RunSpec.compute` has those of the other models.
  """

  policy: architectures.Config
  reward: architectures.Config | None = None
  labeler: architectures.Config | None = None
  labeler_is_policy: bool = False
  labeler_tokens: validation.PositiveInt = 256
  scorer_placement: compute_lib.Placement = compute_lib.PLAIN

  def __post_init__(self):
    super().__post_init__()
    if self.labeler_is_policy and self.labeler != self.policy:
      raise ValueError(
        f"PlanModels.labeler_is_policy is True, the labeler is {self.labeler} "
        f"and the policy {self.policy}; set labeler to the policy's config"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanPhases(validation.Validated):
  """Updates and batch sizes of the phases of a run.

  Attributes:
    sft_updates: number of SFT updates; 0 leaves the phase out.
    reward_updates: number of updates of the reward model, likewise.
    policy_updates: number of updates of the policy, likewise.
    batch_size: examples or prompts per update.
    reward_batch_size: pairs per update of the reward model; 0 uses
      `batch_size`.
  """

  sft_updates: validation.NonNegativeInt = 0
  reward_updates: validation.NonNegativeInt = 0
  policy_updates: validation.NonNegativeInt = 0
  batch_size: validation.PositiveInt = 128
  reward_batch_size: validation.NonNegativeInt = 0

  def __post_init__(self):
    super().__post_init__()
    if not any(self.updates(phase) for phase in PHASES):
      raise ValueError(
        "PlanPhases has no updates; set sft_updates, reward_updates or "
        "policy_updates"
      )

  def updates(self, phase: str) -> int:
    """Returns the number of updates of a phase."""
    return getattr(self, f"{phase}_updates")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
  """The settings that determine the programs of a run."""

  models: PlanModels
  sequence: converters.SequenceConfig
  rl: algorithms.RLConfig
  optimizer: optimizer_lib.OptimizerConfig
  phases: PlanPhases
  compute: compute_lib.ComputeConfig

  @property
  def reward_model(self) -> architectures.Config:
    """The config of the reward model."""
    return self.models.reward or self.models.policy

  def rows(self, phase: str) -> int:
    """Returns the number of rows of one update of a phase."""
    if phase == "reward":
      return self.phases.reward_batch_size or self.phases.batch_size
    samples = self.rl.samples_per_prompt if phase == "policy" else 1
    return self.phases.batch_size * samples

  def indivisible(self, phase: str, mesh: jax.sharding.Mesh) -> str:
    """Returns why the rows of an update do not divide on a mesh, else ""."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    parts = self.compute.microbatches
    rows = self.rows(phase) if phase == "reward" else self.phases.batch_size
    if rows % (devices * parts) == 0:
      return ""
    microbatches = f" in {parts} microbatches" if parts > 1 else ""
    return f"{rows} rows{microbatches} do not divide by {devices} data devices"
