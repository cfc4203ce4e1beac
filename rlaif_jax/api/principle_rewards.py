# SPDX-License-Identifier: Apache-2.0
"""Loads a principle-conditioned reward model as the reward of a policy run.

Sun et al., arXiv 2310.05910: principles are drawn for each prompt, and further
ones can be added without training.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Sequence

import jax
import numpy as np

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import processes
from rlaif_jax.labeling import principles as principles_lib
from rlaif_jax.model_io import pretrained

_BATCH = 64  # responses per device call


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrincipleRewardConfig(validation.Validated):
  """A reward model that reads principles, as the reward.

  All responses to a prompt are rated by the same principles.

  Fields:
    principle_reward_dir: model of `train_reward` on `write_principle_data`.
    principles_file: principles to draw from. They may be others than those of
      the training, and have prohibitions (`Principle.always`).
    num_principles: number of principles that are drawn for a prompt.
    draw_seed: of the draws, which depend on it and the prompt alone.
    multiplier: of the reward, which sets the unit in which beta weighs the KL.
  """

  principle_reward_dir: str
  principles_file: str
  num_principles: validation.PositiveInt = 3
  draw_seed: int = 0
  multiplier: validation.PositiveFloat = 1.0


def text_function(
  config: PrincipleRewardConfig, policy: pretrained.PretrainedModel
) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
  """Returns (contexts, responses) -> rewards.

  Raises:
    ValueError: the principles are invalid, or the longest ones do not fit into
      the reward model's texts.
  """
  principles = principles_lib.read(config.principles_file)
  reward = pretrained.load(
    config.principle_reward_dir, "scalar", policy.mesh, compute_lib.PLAIN
  )
  check_fits(principles, config, reward, policy)
  last = jax.jit(reward.functions.last)

  def values(contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    texts = [
      principles_lib.render(
        context,
        response,
        sentences_of(principles, context, config),
        reward.tokenizer,
        reward.sequence.max_response - 1,
      )
      for context, response in zip(contexts, responses, strict=True)
    ]
    return config.multiplier * _rewards(reward, last, texts)

  return values


def sentences_of(
  principles: principles_lib.Principles,
  context: str,
  config: PrincipleRewardConfig,
) -> list[str]:
  """Returns the principles that a context's responses are rated by.

  Raises:
    ValueError: no principle applies to the context.
  """
  own = principles.of(context)
  standing = principles.standing(context)
  if not own and not standing:
    raise ValueError(
      f"no principle of {config.principles_file} applies to the context "
      f"{context!r:.60}; add one without `where`"
    )
  name = f"principles/{records.content_id(context)}"
  drawn = (
    principles_lib.draw(
      own, config.num_principles, rng.numpy_generator(config.draw_seed, name)
    )
    if own
    else []
  )
  return [principle.text for principle in (*drawn, *standing)]


def check_fits(
  principles: principles_lib.Principles,
  config: PrincipleRewardConfig,
  reward: pretrained.PretrainedModel,
  policy: pretrained.PretrainedModel,
) -> None:
  """Checks that the reward model can read the longest principles.

  Raises:
    ValueError: if it cannot, or some context may have no principle.
  """
  rows = principles.principles
  if all(principle.where for principle in rows):
    raise ValueError(
      f"each principle of {config.principles_file} has a `where`, so that a "
      "context may have none; add one that applies everywhere"
    )
  size = lambda text: len(reward.tokenizer.encode_plain(text))  # noqa: E731
  drawn = sorted((p.text for p in rows if not p.always), key=size)
  standing = [p.text for p in rows if p.always]
  longest = drawn[-config.num_principles :] + standing
  room = reward.sequence.max_response - 1 - policy.sequence.max_response
  principles_lib.render("", "", longest, reward.tokenizer, room)


def _rewards(
  reward: pretrained.PretrainedModel, last, texts: Sequence[str]
) -> np.ndarray:
  """Returns the rewards of texts, as `train_reward` reads them."""
  prompts, _ = converters.encode_prompts(
    [""] * len(texts), reward.tokenizer, reward.sequence
  )
  response, mask, _ = converters.encode_responses(
    texts, reward.tokenizer, reward.sequence.max_response
  )
  batch = converters.token_batch(prompts, response, mask)
  found = []
  for index, real in converters.chunks(len(texts), _BATCH):
    part = converters.take(batch, index)
    found.append(processes.to_host(last(reward.params, part))[:real])
  return np.concatenate(found)
