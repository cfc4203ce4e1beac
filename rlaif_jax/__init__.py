# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning from AI feedback in JAX.

    import rlaif_jax as rj

Importing the package imports no framework and touches no device; each name
below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
  from rlaif_jax.api.labels import PairwiseJudge, label
  from rlaif_jax.api.loading import load
  from rlaif_jax.api.pairwise_rewards import pairwise_reward
  from rlaif_jax.api.policy_gradient import PolicyGradient, policy_gradient
  from rlaif_jax.api.reward_parts import RewardPart
  from rlaif_jax.api.rewards import likelihood_reward, llm_reward
  from rlaif_jax.api.training import fit_dpo, fit_reward_model, fit_sft
  from rlaif_jax.core.compute import ComputeConfig
  from rlaif_jax.core.lora_config import LoraConfig
  from rlaif_jax.core.records import Example, Pair, Preference
  from rlaif_jax.engine.decode import SamplingConfig
  from rlaif_jax.evaluation.agreement import alignment, position_bias
  from rlaif_jax.model_io.pretrained import PretrainedModel

# Public name -> the module that defines it.
_MODULES = {
  "load": "rlaif_jax.api.loading",
  "PretrainedModel": "rlaif_jax.model_io.pretrained",
  "Example": "rlaif_jax.core.records",
  "Pair": "rlaif_jax.core.records",
  "Preference": "rlaif_jax.core.records",
  "PairwiseJudge": "rlaif_jax.api.labels",
  "label": "rlaif_jax.api.labels",
  "alignment": "rlaif_jax.evaluation.agreement",
  "position_bias": "rlaif_jax.evaluation.agreement",
  "fit_sft": "rlaif_jax.api.training",
  "fit_reward_model": "rlaif_jax.api.training",
  "fit_dpo": "rlaif_jax.api.training",
  "llm_reward": "rlaif_jax.api.rewards",
  "likelihood_reward": "rlaif_jax.api.rewards",
  "pairwise_reward": "rlaif_jax.api.pairwise_rewards",
  "RewardPart": "rlaif_jax.api.reward_parts",
  "policy_gradient": "rlaif_jax.api.policy_gradient",
  "PolicyGradient": "rlaif_jax.api.policy_gradient",
  "SamplingConfig": "rlaif_jax.engine.decode",
  "ComputeConfig": "rlaif_jax.core.compute",
  "LoraConfig": "rlaif_jax.core.lora_config",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
  if name not in _MODULES:
    raise AttributeError(f"module 'rlaif_jax' has no attribute {name!r}")
  value = getattr(importlib.import_module(_MODULES[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_MODULES})
