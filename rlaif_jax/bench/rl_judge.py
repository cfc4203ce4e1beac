# SPDX-License-Identifier: Apache-2.0
"""Seconds of an RL step by judge: python -m rlaif_jax.bench.rl_judge.

RLOO with a labeler of the policy's size as the reward: its score of 1 to 10
("pointwise"), or comparisons of the samples ("ring", "all").
"""

from __future__ import annotations

import jax
from jaxtyping import PyTree

from rlaif_jax.bench import judge as judge_bench
from rlaif_jax.bench import model_flops
from rlaif_jax.bench import rl_step
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.core import protocols
from rlaif_jax.labeling import llm_reward
from rlaif_jax.labeling import pairwise_reward
from rlaif_jax.models import decoder
from rlaif_jax.rl import algorithms

JUDGES = ("pointwise", "ring", "all")
# Tokens of the constant text between and after the texts of a prompt.
_SHORT = 4


def _words(count: int, vocab_size: int, seed: int) -> str:
  ids = workload.tokens(1, count, vocab_size=vocab_size, seed=seed)[0]
  return " ".join(map(str, ids))


def reward(
  judge: str, model_config: decoder.DecoderConfig, shared: int
) -> tuple[protocols.Scorer, PyTree]:
  """Returns the Scorer of a judge whose prompts have a preamble."""
  model, params = workload.build(model_config, seed=1)
  size = model_config.vocab_size
  before, *short = (
    _words(count, size, seed)
    for seed, count in enumerate((shared, _SHORT, _SHORT, _SHORT))
  )
  if judge == "pointwise":
    scorer = llm_reward.labeler_scorer(
      model,
      judge_bench.NumberTokenizer(),
      parts=(before, short[0], short[1]),
      options=tuple(map(str, range(1, 11))),
    )
    return jax.jit(scorer.score), scorer.prepare(params)
  scorer = pairwise_reward.pairwise_scorer(
    model,
    judge_bench.NumberTokenizer(),
    parts=(before, *short),
    options=judge_bench.OPTIONS,
    comparison=pairwise_reward.SampleComparison(compare=judge),
  )
  own = pairwise_reward.PairwiseParams(scorer.prepare(params))
  return jax.jit(scorer.score), own


def judging(
  judge: str, config: decoder.DecoderConfig, rows: tuple[int, int, int, int]
) -> roofline.Phase:
  """Returns the work of the judge: each context is read once.

  Args:
    judge: one of JUDGES.
    config: labeler.
    rows: prompts, samples of each, tokens of a prompt and of a response.
  """
  prompts, group, prompt, new = rows
  asked, suffix = group, new + _SHORT
  if judge != "pointwise":
    pairs = pairwise_reward.SampleComparison(compare=judge).pairs(group)
    asked, suffix = 2 * len(pairs), 2 * (new + _SHORT)
  own = suffix * prompt + suffix * (suffix + 1) / 2
  return model_flops.group_pass(
    config,
    name="judge",
    columns=prompts * (prompt + asked * suffix),
    attended=prompts * (prompt * (prompt + 1) / 2 + asked * own),
    states=prompts * asked,
    logits=prompts * asked,
    passes=1,
  )


def run(
  judge: str = "ring",
  samples: int = 16,
  group: int = 4,
  prompt: int = 128,
  new: int = 64,
  *,
  repetitions: int = 4,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times whole steps.

  Args:
    judge: one of JUDGES.
    samples: samples per step.
    group: samples per prompt.
    prompt: tokens of a prompt.
    new: tokens of a response.
    repetitions: timed steps.
    model_config: policy and labeler.

  Raises:
    ValueError: if there is no such judge.
  """
  if judge not in JUDGES:
    raise ValueError(f"judge is {judge!r}; use one of {JUDGES}")
  rl = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=group)
  prompts = samples // group
  call = rl_step.make_step(
    model_config,
    rl,
    prompts,
    prompt,
    new,
    reward(judge, model_config, shared=prompt),
  )
  return workload.report(
    "rl_judge",
    "samples",
    samples,
    call,
    [
      *rl_step.phases(model_config, samples, prompt, new, rl),
      judging(judge, model_config, (prompts, group, prompt, new)),
    ],
    repetitions=repetitions,
    settings={"judge": judge, "samples": samples, "group": group},
  )


if __name__ == "__main__":
  workload.main(run, __doc__)
