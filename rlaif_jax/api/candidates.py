# SPDX-License-Identifier: Apache-2.0
"""Candidate checkpoints of a policy run, and the selection of one of them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Callable, Sequence

import jax
import numpy as np

from rlaif_jax.api import sampling as sampling_lib
from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import processes
from rlaif_jax.evaluation import run_files
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable

# (prompts, response [B, N, R], mask [B, N, R]) -> rewards [B, N]
Score = Callable[[batches.PromptBatch, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig(validation.Validated):
  """Selection of the checkpoint that becomes the model (paper, appendix G).

  The labeler compares the candidates of highest validation reward with the SFT
  policy on the validation contexts; the one with the highest win rate is
  selected. Without a labeler the highest validation reward decides.

  Attributes:
    candidates: number of candidates that the labeler compares.
    judge_dir: finished language model of the labeler.
    judge: prompt and method of the labeler.
  """

  candidates: validation.PositiveInt = 4
  judge_dir: str = ""
  judge: pairwise_judge.PairwiseJudgeConfig | None = None

  def __post_init__(self):
    super().__post_init__()
    if bool(self.judge_dir) != (self.judge is not None):
      raise ValueError(
        f"SelectionConfig.judge_dir is {self.judge_dir!r} and judge is "
        f"{self.judge}; set both or neither"
      )


class Candidates:
  """evaluate(params, step): samples, scores and saves a candidate.

  Each step writes validation/STEP.jsonl (responses with log-probs and reward)
  and candidates/STEP (parameters). All candidates answer the same contexts with
  the same random keys.

  Args:
    directory: output directory of the run.
    sft: the SFT policy, which is also the reference of the KL.
    examples: validation contexts.
    score: reward function.
    sampling: temperature and length.
    batch_size: contexts per device call.
    reshard: params -> the copy that generates.
    frozen: the policy's parameters that are not trained.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    sft: pretrained.PretrainedModel,
    examples: Sequence[records.Example],
    score: Score,
    *,
    sampling: decode.SamplingConfig,
    batch_size: int,
    reshard: Callable[[protocols.Params], protocols.Params],
    frozen: trainable.Frozen = trainable.Frozen(),
  ):
    self._directory = pathlib.Path(directory)
    self._sft = sft
    self._examples = examples
    encode = datasets.prompt_encoder(sft.tokenizer, sft.sequence)
    self._prompts, _ = encode(examples)
    self._sample = sampling_lib.make_sampler(sft, sft, sampling)
    self._score = score
    self._batch_size = batch_size
    self._reshard = reshard
    self._frozen = frozen

  def __call__(self, params: protocols.Params, step: int) -> dict[str, float]:
    rows = []
    policy = params["policy"]
    generator = self._reshard(self._frozen.attached(policy))
    for index, real in converters.chunks(len(self._examples), self._batch_size):
      part = converters.take(self._prompts, index)
      key = rng.key(0, "validation")
      samples = self._sample(generator, self._sft.params, part, key)
      scores = self._score(
        part, samples.response[:, None], samples.mask[:, None]
      )[:, 0]
      samples, scores = processes.to_host((samples, scores))
      for i, row in enumerate(index[:real]):
        response = sampling_lib.to_response(
          self._examples[row], 0, samples, i, self._sft.tokenizer
        )
        rows.append({**records.to_row(response), "score": float(scores[i])})
    jsonl.write_rows(self._directory / "validation" / f"{step:06d}.jsonl", rows)
    checkpoint.save_model(
      self._directory / "candidates" / f"{step:06d}",
      policy,
      {"kind": "candidate"},
    )
    kl = np.mean([r["log_prob"] - r["ref_log_prob"] for r in rows])
    return {
      "validation_score": float(np.mean([r["score"] for r in rows])),
      "validation_kl": float(kl),
      "validation_tokens": float(np.mean([r["tokens"] for r in rows])),
    }

  def load(self, step: int, policy: protocols.Params) -> protocols.Params:
    """Returns the trained parameters of a candidate.

    Args:
      step: number of updates.
      policy: those of the last one, whose shapes and shardings are taken.
    """
    directory = self._directory / "candidates" / f"{step:06d}"
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      policy,
    )
    return checkpoint.load_params(directory, like)


def select(
  directory: str, config: SelectionConfig, devices: jax.sharding.Mesh
) -> list[records.Row]:
  """Returns the candidates of highest validation reward with their win rates.

  Step 0 is the SFT policy: the baseline, and no candidate.

  Args:
    directory: output directory of the run.
    config: number of candidates, and the labeler.
    devices: mesh of the labeler.

  Returns:
    Rows of "step", "score" (mean validation reward), "preference" (win rate
    against the SFT policy; 0.5 without a labeler), "n" (contexts) and "judge"
    (NAME@HASH of the labeler).
  """
  validation = run_files.validation(directory)
  baseline = {row["id"]: row for row in validation.get(0, [])}
  table = [
    {
      "step": step,
      "score": float(np.mean([row["score"] for row in rows])),
      "preference": 0.5,
      "n": len(rows),
    }
    for step, rows in validation.items()
    if step > 0
  ]
  table.sort(key=lambda c: -c["score"])
  table = table[: config.candidates]
  if config.judge is None or not baseline:
    return table
  labeler = pretrained.load(config.judge_dir, "language", devices)
  backend = labeler.backend()
  for candidate in table:
    pairs = [
      records.Pair(
        id=row["id"],
        context=row["context"],
        first=row["text"],
        second=baseline[row["id"]]["text"],
      )
      for row in validation[candidate["step"]]
    ]
    quarantine = jsonl.Quarantine()
    judged, _ = pairwise_judge.judge_pairs(
      pairs,
      backend,
      config.judge,
      tokenizer=labeler.tokenizer,
      quarantine=quarantine,
    )
    wins = [
      1.0 if j.p_first > 0.5 else 0.5 * (j.p_first == 0.5) for j in judged
    ]
    candidate["preference"] = float(np.mean(wins)) if wins else 0.5
    candidate["unanswered"] = len(quarantine.rows)
    candidate["judge"] = backend.name
  return table
