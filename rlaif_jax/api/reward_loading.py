# SPDX-License-Identifier: Apache-2.0
"""Loads the reward of a policy run: models or a labeler, standardised."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Callable, Literal, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float
import numpy as np

from rlaif_jax.api import rewards
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import processes
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import rating_file
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.ops import ensembles
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.reward import scorers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorerConfig(validation.Validated):
  """The reward: a model, an ensemble of models, a labeler, or a function.

  Attributes:
    reward_dir: model of `train_reward`, or ensemble of `train_ensemble`. Set
      exactly one of reward_dir, labeler_dir and function; none stands for no
      scorer.
    more_reward_dirs: further reward models of the same size; they are an
      ensemble with the one in reward_dir.
    aggregate: how members become one reward; see `ops.ensembles.aggregate`.
    coefficient: weight of the aggregate's uncertainty penalty.
    labeler_dir: language model whose opinion is the reward (d-RLAIF).
    rating_template: pointwise template of its score of 1 to 10, or a yes/no
      template.
    likelihood: "pmi" or "mean_pmi" of `labeling.likelihood_judge` in place of a
      score, for labelers too small to be asked; not in the paper.
    between: text between context and response, for likelihoods.
    function: a function of your own: of texts, a jitted one of tokens, or a
      `rewards.Reward`; see `rewards.as_reward`.
    standardize_file: JSONL of responses, such as the SFT policy's. The reward
      is (r - mean) / std over them, times `scale`; each member of an ensemble
      is standardised on its own. The paper uses the raw reward.
    standardize_rows: number of its rows that are used.
    scale: standard deviation of the standardised reward.
    placement: sharding and dtype of the scoring models.
  """

  reward_dir: str = ""
  more_reward_dirs: tuple[str, ...] = ()
  aggregate: Annotated[str, validation.OneOf(ensembles.AGGREGATES)] = "mean"
  coefficient: float = 0.0
  labeler_dir: str = ""
  rating_template: str = ""
  likelihood: Literal["", "pmi", "mean_pmi"] = ""
  between: str = "\n\nSummary:\n"
  function: Callable[..., object] | rewards.Reward | None = None
  standardize_file: str = ""
  standardize_rows: validation.PositiveInt = 256
  scale: validation.PositiveFloat = 1.0
  placement: compute_lib.Placement = compute_lib.PLAIN

  def __post_init__(self):
    super().__post_init__()
    if sum(map(bool, (self.reward_dir, self.labeler_dir, self.function))) > 1:
      raise ValueError(
        f"ScorerConfig.reward_dir is {self.reward_dir!r}, labeler_dir is "
        f"{self.labeler_dir!r} and function is {self.function}; set exactly "
        "one of them"
      )
    ways = bool(self.rating_template) + bool(self.likelihood)
    if ways != bool(self.labeler_dir):
      raise ValueError(
        f"ScorerConfig.labeler_dir is {self.labeler_dir!r}, rating_template "
        f"{self.rating_template!r} and likelihood {self.likelihood!r}; set "
        "labeler_dir with one of the others, or none of them"
      )
    if self.more_reward_dirs and not (
      self.reward_dir and self.standardize_file
    ):
      raise ValueError(
        "ScorerConfig: more_reward_dirs need a reward_dir and a "
        "standardize_file: preferences leave a reward's zero and unit open, so "
        "members are compared over the same responses"
      )

  @property
  def is_set(self) -> bool:
    return bool(self.reward_dir or self.labeler_dir or self.function)

  def identity(self) -> str:
    """Returns names and content hashes of the models, or of the function."""
    if self.function is not None:
      own = self.function
      is_reward = isinstance(own, rewards.Reward)
      return user_functions.identity_of(own.score if is_reward else own)
    directories = (self.reward_dir, *self.more_reward_dirs, self.labeler_dir)
    return ",".join(checkpoint.identity_of(d) for d in directories if d)

  def fingerprint(self) -> str:
    """Returns a hash of everything that a reward depends on."""
    settings = {
      field.name: repr(getattr(self, field.name))
      for field in dataclasses.fields(self)
      if field.name != "function"  # Its identity has no address of memory.
    }
    return records.content_id(json.dumps(settings), self.identity())


NO_SCORER = ScorerConfig()


def make_scorer(
  config: ScorerConfig,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
) -> tuple[protocols.Scorer, protocols.Params]:
  """Returns the Scorer of a config and its parameters.

  Raises:
    ValueError: if there is no model, or the reward model does not read the
      prompts of the policy.
  """
  if not config.is_set:
    raise ValueError(
      "ScorerConfig.reward_dir and ScorerConfig.labeler_dir are both ''; set "
      "exactly one of them"
    )
  if config.reward_dir and is_ensemble(config):
    inner, params = make_ensemble(config, policy, devices)
  elif config.reward_dir:
    reward = load_reward(config.reward_dir, policy, devices, config.placement)
    inner = jax.jit(scorers.reward_scorer(reward.functions))
    params = trainable.share_equal(reward.params, policy.params)
  elif config.function is not None:
    inner, params, _ = rewards.as_reward(config.function, policy)
  else:
    labeler = pretrained.load(
      config.labeler_dir,
      "language",
      devices,
      config.placement,
      policy.attention,
    )
    shared = trainable.share_equal(labeler.params, policy.params)
    labeler = dataclasses.replace(labeler, params=shared)
    reward = rewards.LLMReward(
      labeler, config.rating_template, config.likelihood, config.between
    )
    inner, params, _ = reward.for_policy(policy)
  mean, std = 0.0, 1.0
  if config.standardize_file:
    rows = config.standardize_rows
    mean, std = statistics(config.standardize_file, rows, inner, params, policy)
  unit = scorers.Standardized(
    params=params,
    shift=jnp.float32(mean),
    scale=jnp.float32(std / config.scale),
  )
  return scorers.standardized(inner), unit


def is_ensemble(config: ScorerConfig) -> bool:
  """Returns whether the reward is an ensemble.

  Raises:
    ValueError: if options of ensembles are missing, or set for one model.
  """
  kind = checkpoint.read_description(config.reward_dir)["kind"]
  if kind != "ensemble":
    if not config.more_reward_dirs and config.aggregate != "mean":
      raise ValueError(
        f"ScorerConfig.aggregate is {config.aggregate!r} and "
        f"{config.reward_dir} holds one model; name an ensemble of "
        "train_ensemble, or more_reward_dirs"
      )
    return bool(config.more_reward_dirs)
  if config.more_reward_dirs or not config.standardize_file:
    raise ValueError(
      f"ScorerConfig: {config.reward_dir} is an ensemble; it needs a "
      "standardize_file, since preferences leave a member's zero and unit "
      "open, and takes no more_reward_dirs"
    )
  return True


def load_reward(
  directory: str,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
  placement: compute_lib.Placement,
  kind: str = "scalar",
) -> pretrained.PretrainedModel:
  """Loads a reward model, and checks that it reads the policy's tokens.

  It attends as the policy does.
  """
  reward = pretrained.load(
    directory, kind, devices, placement, policy.attention
  )
  check_same_text(directory, reward, policy)
  return reward


def make_ensemble(
  config: ScorerConfig,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
) -> tuple[protocols.Scorer, ensemble_lib.Unit]:
  """Returns the Scorer of an ensemble, with its parameters.

  Raises:
    ValueError: if members differ in size, or do not fit the policy.
  """
  functions, ensemble, params = (
    whole_members(config, policy, devices)
    if config.more_reward_dirs
    else members_of_a_trunk(config, policy, devices)
  )

  @jax.jit
  def members(params, prompts, response, mask):
    group = scoring.join_groups(prompts, response, mask)
    return ensemble_lib.member_rewards(functions, ensemble, params, group)

  means, deviations = statistics(
    config.standardize_file, config.standardize_rows, members, params, policy
  )
  unit = ensemble_lib.Unit(
    params=params,
    shift=jnp.asarray(means, jnp.float32),
    scale=jnp.asarray(deviations, jnp.float32),
  )
  scorer = ensemble_lib.ensemble_scorer(
    functions,
    ensemble,
    aggregate=config.aggregate,
    coefficient=config.coefficient,
  )
  return jax.jit(scorer), unit


def members_of_a_trunk(
  config: ScorerConfig,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
):
  """Loads functions, config and parameters of one of `train_ensemble`."""
  place = config.placement
  loaded = load_reward(config.reward_dir, policy, devices, place, "ensemble")
  return loaded.functions, loaded.ensemble, loaded.params


def whole_members(
  config: ScorerConfig,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
):
  """Loads independent reward models as the members of an ensemble."""
  directories = (config.reward_dir, *config.more_reward_dirs)
  models = [
    load_reward(name, policy, devices, config.placement) for name in directories
  ]
  for name, other in zip(directories, models):
    if other.config != models[0].config:
      raise ValueError(
        f"{name} has the sizes {other.config} and {directories[0]} "
        f"{models[0].config}; members of an ensemble have one size"
      )
  members = jax.tree.map(lambda *x: jnp.stack(x), *[m.params for m in models])
  ensemble = ensemble_lib.EnsembleConfig(members=len(models))
  return models[0].functions, ensemble, {"shared": {}, "members": members}


def statistics(
  file: str,
  num_rows: int,
  score: protocols.Scorer,
  params: protocols.Params,
  policy: pretrained.PretrainedModel,
) -> tuple[Float[np.ndarray, "*k"], Float[np.ndarray, "*k"]]:
  """Returns mean and standard deviation of the reward of stored responses.

  They are scalars, or [k] if `score` returns [k, B, N] for k members.

  Raises:
    ValueError: if there are too few rows, or all rewards are equal.
  """
  rows = jsonl.read_records(records.Response, file, jsonl.of_run())
  rows = rows[:num_rows]
  if len(rows) < 2:
    raise ValueError(
      f"{file} has {len(rows)} responses; a mean and a "
      "standard deviation need at least two"
    )
  values = score_texts(
    score, params, [r.context for r in rows], [r.text for r in rows], policy
  )
  if values.std(axis=-1).min() < 1e-6:
    raise ValueError(
      f"the reward is {values.mean():.4g} for every response of "
      f"{file}; a constant reward cannot train a policy"
    )
  return values.mean(axis=-1), values.std(axis=-1)


def score_texts(
  score: protocols.Scorer,
  params: protocols.Params,
  contexts: Sequence[str],
  responses: Sequence[str],
  policy: pretrained.PretrainedModel,
  batch_size: int = 64,
) -> Float[np.ndarray, "*k n"]:
  """Returns rewards [n] of responses to contexts, or [k, n] of k members."""
  arrays, _ = converters.encode_prompts(
    contexts, policy.tokenizer, policy.sequence
  )
  response, mask, _ = converters.encode_responses(
    responses, policy.tokenizer, policy.sequence.max_response
  )
  values = []
  for index, real in converters.chunks(len(responses), batch_size):
    part = converters.take(arrays, index)
    scores = score(params, part, response[index, None], mask[index, None])
    values.append(processes.to_host(scores)[..., :real, 0])
  return np.concatenate(values, axis=-1)


def make_rate_fn(
  config: ScorerConfig,
  policy: pretrained.PretrainedModel,
  devices: jax.sharding.Mesh,
) -> rating_file.RateFn:
  """Returns a function that rates responses of a policy by the reward.

  Raises:
    ValueError: see `make_scorer`.
  """
  score, params = make_scorer(config, policy, devices)
  name = config.identity()

  def rate(examples: Sequence[records.Example]):
    contexts = [example.context for example in examples]
    responses = [example.response for example in examples]
    values = score_texts(score, params, contexts, responses, policy)
    return [
      records.Rating(
        id=example.id,
        context=example.context,
        response=example.response,
        score=float(value),
        probabilities=(),
        labeler=name,
      )
      for example, value in zip(examples, values, strict=True)
    ], records.Usage()

  return rate


def check_same_text(
  directory: str,
  reward: pretrained.PretrainedModel,
  policy: pretrained.PretrainedModel,
) -> None:
  """Checks that a reward model and a policy read the same prompts.

  Raises:
    ValueError: if vocabulary, text around a context or its length differ.
  """
  if reward.tokenizer.fingerprint != policy.tokenizer.fingerprint:
    raise ValueError(
      f"{directory} was trained with another vocabulary than the policy; "
      "their tokens cannot be shared. Train the reward model from a model "
      "with the policy's tokenizer.model"
    )
  ours, theirs = (
    (s.prefix, s.suffix, s.max_context)
    for s in (policy.sequence, reward.sequence)
  )
  if ours != theirs:
    raise ValueError(
      f"{directory} was trained on prompts with (prefix, suffix, max_context) "
      f"= {theirs} and the policy's are {ours}; train the reward model from "
      "the policy's SFT model"
    )
