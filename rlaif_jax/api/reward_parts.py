# SPDX-License-Identifier: Apache-2.0
"""Rewards of several named parts: models, labelers and users' functions."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Callable, Literal, Mapping, NamedTuple, Sequence

from jaxtyping import Array, Float

from rlaif_jax.api import judge_rewards
from rlaif_jax.api import pairwise_rewards
from rlaif_jax.api import principle_rewards
from rlaif_jax.api import reward_loading
from rlaif_jax.api import reward_rules
from rlaif_jax.api import rewards
from rlaif_jax.api import text_rewards
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.core import validation
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import composite

Rows = Sequence[records.Example]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardPart(validation.Validated):
  """One part of a reward; exactly one of `reward` and `function`.

  The part adds weight * clip(standardize((r - mean) / deviation)), where mean
  and deviation are 0 and 1 without a `statistics_file`.

  Attributes:
    name: name in metrics (`reward/NAME`).
    reward: a `ScorerConfig`, `PairwiseRewardConfig`, `JudgeRewardConfig` or
      `PrincipleRewardConfig`; in Python also anything that `as_reward` takes.
    function: name in `reward_rules.RULES`, or import path of a function
      ("package.module:name") of texts or, if it is jitted, of tokens.
    options: keyword arguments of the function.
    weight: factor in the sum; 0 only reports the part.
    standardize: standardises over the "batch", or a prompt's "group".
    statistics_file: JSONL of responses whose mean and deviation are used, as
      in `ScorerConfig`.
    statistics_rows: number of its rows that are used.
    clip: largest size of the value after standardisation; 0 is off.
    missing: a response without a value (None or NaN; 0.0 is a score) is an
      "error", or the part is left out of its sum ("exclude").
  """

  name: str
  reward: (
    pairwise_rewards.PairwiseRewardConfig
    | judge_rewards.JudgeRewardConfig
    | principle_rewards.PrincipleRewardConfig
    | object
    | None
  ) = None
  function: str = ""
  options: Mapping[str, object] | None = None
  weight: float = 1.0
  standardize: composite.Standardize = "none"
  statistics_file: str = ""
  statistics_rows: validation.PositiveInt = 256
  clip: validation.NonNegativeFloat = 0.0
  missing: Literal["error", "exclude"] = "error"

  def __post_init__(self):
    super().__post_init__()
    if (self.reward is None) != bool(self.function):
      raise ValueError(
        f"RewardPart {self.name!r}: reward is {self.reward!r} and function "
        f"{self.function!r}; set exactly one of them"
      )
    if self.options and not self.function:
      raise ValueError(
        f"RewardPart {self.name!r}: options are {dict(self.options)} and there "
        "is no function that reads them"
      )

  def load(self) -> object:
    """Returns the reward, or the function with its options.

    Raises:
      ValueError: if there is no such function, or it lacks or refuses options.
    """
    if not self.function:
      return self.reward
    what = f"the function of RewardPart {self.name!r}"
    found = reward_rules.RULES.get(self.function)
    if found is None:
      if not set(self.function) & set(".:"):
        raise ValueError(
          f"{what} is {self.function!r}; use one of "
          f"{tuple(reward_rules.RULES)}, or an import path 'module:name'"
        )
      found = user_functions.load(self.function, what)
    return _with_options(found, dict(self.options or {}), what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """The reward of a run: one scorer, or several parts.

  Attributes:
    scorer: reward model, ensemble or labeler.
    parts: named parts, in its place.
  """

  scorer: reward_loading.ScorerConfig = reward_loading.NO_SCORER
  parts: tuple[RewardPart, ...] = ()

  def __post_init__(self):
    if bool(self.parts) == self.scorer.is_set:
      raise ValueError(
        f"ScorerConfig.reward_dir is {self.scorer.reward_dir!r}, labeler_dir "
        f"{self.scorer.labeler_dir!r} and RewardConfig.parts {self.parts}; set "
        "exactly one of them"
      )
    if self.parts:
      composite.check_names([part.name for part in self.parts])


class LoadedReward(NamedTuple):
  """A reward of a run.

  Attributes:
    score: Scorer of rollouts.
    params: its parameters.
    validate: (prompts, response, mask) -> rewards [B, N] of responses to the
      validation rows.
  """

  score: protocols.Scorer
  params: protocols.Params
  validate: Callable[..., Float[Array, "B N"]]


def _with_options(
  found: object, options: dict[str, object], what: str
) -> Callable:
  """Returns a function with its options.

  Raises:
    ValueError: if it is no function, or does not take them.
  """
  if not callable(found):
    raise ValueError(f"{what} is {found!r}; it must be a function")
  positional = (
    3 if rewards.is_jitted(found) or text_rewards.reads_rows(found) else 2
  )
  try:
    inspect.signature(found).bind(*[None] * positional, **options)
  except TypeError as error:
    raise ValueError(
      f"{what} has the options {options}: {error}; its signature is "
      f"{inspect.signature(found)}"
    ) from error
  return functools.partial(found, **options) if options else found


def as_reward(
  reward: object,
  policy: pretrained.PretrainedModel,
  *,
  rows: Rows | None = None,
  name: str = "reward",
  allow_missing: bool = False,
  directory: str = "",
) -> rewards.Reward:
  """Returns a reward, or the sum of named parts, as a Scorer with parameters.

  Args:
    reward: a list of `RewardPart`, one of the configs of `RewardPart.reward`, a
      `PairwiseReward`, or what `rewards.as_reward` takes.
    policy: the policy that is trained.
    rows: see `rewards.as_reward`, like the following two.
    name: of the reward, in errors.
    allow_missing: whether a function of texts may return None.
    directory: see `load`.

  Raises:
    ValueError: if a reward does not fit the policy, or two parts have one name.
  """
  if isinstance(reward, reward_loading.ScorerConfig):
    mesh = policy.mesh
    return rewards.Reward(*reward_loading.make_scorer(reward, policy, mesh))
  if isinstance(reward, pairwise_rewards.PairwiseRewardConfig):
    reward = reward.load(policy.mesh, directory)
  if isinstance(reward, judge_rewards.JudgeRewardConfig):
    reward = judge_rewards.text_function(reward, policy)
  if isinstance(reward, principle_rewards.PrincipleRewardConfig):
    reward = principle_rewards.text_function(reward, policy)
  if isinstance(reward, pairwise_rewards.PairwiseReward):
    return reward.for_policy(
      policy, rows, name=name, allow_missing=allow_missing
    )
  if isinstance(reward, rewards.Reward) or not isinstance(
    reward, (list, tuple)
  ):
    return rewards.as_reward(
      reward, policy, rows=rows, name=name, allow_missing=allow_missing
    )
  return _composite(reward, policy, rows, directory)


def _composite(
  parts: Sequence[RewardPart],
  policy: pretrained.PretrainedModel,
  rows: Rows | None,
  directory: str,
) -> rewards.Reward:
  for part in parts:
    if not isinstance(part, RewardPart):
      raise ValueError(
        f"a part of the reward is {part!r}; it must be a RewardPart"
      )
  composite.check_names([part.name for part in parts])
  scored, found = [], {}
  for part in parts:
    excludes = part.missing == "exclude"
    one = as_reward(
      part.load(),
      policy,
      rows=rows,
      name=part.name,
      allow_missing=excludes,
      directory=directory,
    )
    mean, std = 0.0, 1.0
    if part.statistics_file:
      mean, std = _statistics(part, one, policy)
    found[part.name] = one
    scored.append(
      composite.ScoredPart(
        name=part.name,
        scorer=one.score,
        weight=part.weight,
        shift=mean,
        scale=std,
        standardize=part.standardize,
        clip=part.clip,
        excludes=excludes,
      )
    )

  def with_rows(rows: Rows) -> dict[str, protocols.Params]:
    return {
      name: one.with_rows(rows) if one.with_rows else one.params
      for name, one in found.items()
    }

  params = {name: one.params for name, one in found.items()}
  return rewards.Reward(composite.composite_scorer(scored), params, with_rows)


def _statistics(
  part: RewardPart, one: rewards.Reward, policy: pretrained.PretrainedModel
) -> tuple[float, float]:
  """Returns mean and deviation over the part's `statistics_file`."""
  if isinstance(one.params, (list, tuple)):
    raise ValueError(
      f"RewardPart {part.name!r} is a function of texts, whose rows the "
      f"responses of statistics_file {part.statistics_file} do not have; use "
      "standardize = 'batch' or 'group'"
    )
  mean, std = reward_loading.statistics(
    part.statistics_file, part.statistics_rows, one.score, one.params, policy
  )
  return float(mean), float(std)


def load(
  config: RewardConfig,
  policy: pretrained.PretrainedModel,
  splits: tuple[Rows, Rows],
  directory: str,
) -> LoadedReward:
  """Loads the reward of a run.

  Args:
    config: one scorer, or parts.
    policy: the policy that is trained.
    splits: training and validation examples, by `PromptBatch.row`.
    directory: output directory of the run, for the store of an endpoint.

  Raises:
    ValueError: see `as_reward`.
  """
  if not config.parts:
    score, params, _ = as_reward(config.scorer, policy)
    return LoadedReward(score, params, functools.partial(score, params))
  found = as_reward(config.parts, policy, rows=splits[0], directory=directory)
  # Rows are looked up by their number in these lists.
  others = found.with_rows(splits[1])
  return LoadedReward(
    found.score,
    found.params,
    lambda *responses: found.score(others, *responses).total,
  )
