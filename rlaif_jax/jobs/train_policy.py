# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning of a policy: RLAIF, RLHF or d-RLAIF.

The three differ in the Scorer alone: a reward model trained on AI labels, one
trained on human labels, or the labeler's own 1..10 score inside the loop.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Sequence

import jax
import numpy as np

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.jobs import sample_responses
from rlaif_jax.api import reward_loading
from rlaif_jax.data import datasets
from rlaif_jax.labeling import judge
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib

JOB = job_spec.JobSpec(multihost=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptData:
  """Contexts to train on and, from another split, to validate on."""

  data_dir: str = ""
  examples_file: str = ""
  task: str = ""
  split: str = "rl"
  validation_split: str = "validation"
  validation_rows: int = 128
  limit: int = 0

  def read(
    self, split: str, limit: int, on_demand: bool = False
  ) -> Sequence[records.Example]:
    """Examples of the split (or of the file, which serves both)."""
    return pretrained.load_examples(
      examples_file=self.examples_file,
      task=self.task,
      split=split,
      data_dir=self.data_dir,
      limit=limit,
      on_demand=on_demand,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig:
  """Which checkpoint becomes the model (paper, appendix G).

  The `candidates` evaluated checkpoints of highest validation reward are
  judged against the SFT policy on the validation contexts by the labeler in
  `judge_dir`, and the one with the highest win rate is taken. Without a judge
  the highest validation reward decides.
  """

  candidates: int = 4
  judge_dir: str = ""
  judge: judge.JudgeConfig | None = None

  def __post_init__(self):
    if self.candidates < 1:
      raise ValueError(
        f"SelectionConfig.candidates is {self.candidates}; it must be >= 1"
      )
    if bool(self.judge_dir) != (self.judge is not None):
      raise ValueError(
        "SelectionConfig: judge_dir and judge go together; give both or none"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacementConfig:
  """Where the parameters of each model lie; ScorerConfig has the scorer's.

  What is learned (policy, value) stays float32; the reference is only read. So
  is the copy of the policy that samples, made anew for each rollout and each
  validation: where parameters are split by fsdp it saves gathering them for
  every token (rules=(("embed", ""),)). None: there is no copy.
  """

  policy: mesh_lib.Placement = mesh_lib.PLAIN
  value: mesh_lib.Placement = mesh_lib.PLAIN
  reference: mesh_lib.Placement = mesh_lib.PLAIN
  rollout: mesh_lib.Placement | None = None

  def __post_init__(self):
    for name in ("policy", "value"):
      if (dtype := getattr(self, name).dtype) != "float32":
        raise ValueError(
          f"PlacementConfig.{name} has dtype {dtype!r}; what is learned stays "
          "'float32' (DecoderConfig.dtype says what it is computed in)"
        )


def run(
  *,
  output_dir: str,
  policy_dir: str,
  prompts: PromptData,
  scorer: reward_loading.ScorerConfig,
  rl: algorithms.RLConfig,
  sampling: decode.SamplingConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  value_optimizer: optimizer_lib.OptimizerConfig,
  train: loop.LoopConfig,
  selection: SelectionConfig,
  batch_size: int = 128,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  mesh: str = "data:-1",
  placement: PlacementConfig = PlacementConfig(),
  seed: int = 0,
  name: str = "policy",
) -> dict[str, Any]:
  """Trains, selects a checkpoint, and writes `output_dir`/model.

  Args:
    output_dir: where everything goes; a second start continues there.
    policy_dir: the SFT policy: start of policy and value, and reference.
    prompts: where the contexts come from.
    scorer: the reward.
    rl: objective and algorithm; the defaults are the paper's.
    sampling: of rollouts (paper: temperature 0.9).
    optimizer: of the policy (paper: 1e-5).
    value_optimizer: of the value network.
    train: steps; `evaluate_every` makes the candidate checkpoints.
    selection: which candidate becomes the model.
    batch_size: prompts per step (paper: 128 episodes).
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer; see `train_sft`.
    scan_layers: layers are one loop in the update; see `train_sft`.
    mesh: devices.
    placement: where each model's parameters lie on them.
    seed: of order and samples.
    name: of the finished model.
  """
  devices = mesh_lib.make_mesh(mesh)
  # 1. Models: policy and reference from SFT, value trunk from SFT, scorer.
  sft = pretrained.load(policy_dir, "language", devices, placement.policy)
  converters.check_fits(
    dataclasses.replace(sft.sequence, max_response=sampling.max_tokens),
    sft.tokenizer,
    vocab_size=sft.config.vocab_size,
    max_length=sft.config.max_length,
  )
  examples = prompts.read(prompts.split, prompts.limit, on_demand=True)
  rows = datasets.TrainingRows(examples, lambda some: encode(some, sft))
  validation = prompts.read(prompts.validation_split, prompts.validation_rows)
  score, scorer_params = reward_loading.make_scorer(scorer, sft, devices)
  how = architectures.Execution(
    remat=remat,
    scan_layers=scan_layers,
    split_by=mesh_lib.activation_sharding(devices),
  )
  params = {"policy": pretrained.copy_params(sft.params)}
  value, configs = None, {"policy": optimizer}
  if algorithms.ALGORITHMS[rl.algorithm].needs_value:
    value = architectures.scalar(sft.config, how)
    params["value"] = reward_loading.scalar_params(
      value, sft, devices, seed, placement.value
    )
    configs["value"] = value_optimizer
  # 2. Rollout and update.
  move = mesh_lib.mover(sft.functions.init, devices, placement.rollout)
  collect = rollout_lib.make_collect(
    sft.functions,
    value,
    score,
    config=dataclasses.replace(rl, sampling=sampling),
    eos_ids=sft.tokenizer.eos_ids,
    reshard=move,
  )
  tx = optimizer_lib.make_joint_optimizer(configs)
  state = step_lib.state_from_params(params, tx, devices)
  update = step_lib.make_train_step(
    algorithms.make_loss(
      architectures.language(sft.config, how),
      value,
      dataclasses.replace(rl, sampling=sampling),
    ),
    tx,
    microbatches=microbatches,
    epochs=rl.epochs,
    minibatches=rl.minibatches,
  )
  frozen = {
    "reference": reference_params(sft, placement, devices),
    "scorer": scorer_params,
  }

  def next_batch(state, step):
    batch = rows.of_step(
      devices, batch_size=batch_size, seed=seed, name=name, step=step
    )
    return collect(state.params, frozen, batch, rng.key(seed, "rollout", step))

  def step_fn(state, collected, key):
    batch, rollout_metrics = collected
    state, metrics = update(state, batch, key)
    return state, {**metrics, **rollout_metrics}

  # 3. The loop; every evaluation leaves a candidate behind.
  grade = functools.partial(score, scorer_params)
  evaluate = Candidates(
    output_dir, sft, validation, grade, sampling, batch_size, move
  )
  state = loop.fit(
    state,
    step_fn,
    next_batch,
    config=train,
    seed=seed,
    directory=output_dir,
    name=name,
    evaluate=evaluate,
  )
  # 4. Selection, and the finished model.
  table = select(output_dir, selection, devices)
  best = max(table, key=lambda c: (c["preference"], c["score"]))["step"]
  pretrained.save_like(
    f"{output_dir}/model",
    evaluate.load(best),
    sft,
    name=name,
    kind="language",
  )
  return {
    "model": f"{output_dir}/model",
    "prompts": len(rows),
    **rows.counts,
    "selected_step": best,
    "candidates": table,
  }


def reference_params(
  sft: pretrained.Loaded, placement: PlacementConfig, devices: jax.sharding.Mesh
) -> Any:
  """The SFT policy's parameters, a copy where they lie otherwise."""
  if placement.reference == placement.policy:
    return sft.params
  move = mesh_lib.mover(sft.functions.init, devices, placement.reference)
  return move(sft.params)


def encode(examples: Sequence[records.Example], policy: pretrained.Loaded):
  """Prompts of the policy, and how many contexts were cut."""
  contexts = [e.context for e in examples]
  prompts, cut = converters.encode_prompts(
    contexts, policy.tokenizer, policy.sequence
  )
  return prompts, {"cut_contexts": cut}


class Candidates:
  """evaluate(params, step): samples, scores and keeps a candidate.

  For each step it writes validation/STEP.jsonl (responses with their KL
  terms and reward) and candidates/STEP (parameters). All candidates answer
  the same contexts with the same keys.
  """

  def __init__(self, directory, sft, validation, score, sampling, rows, move):
    self._directory = pathlib.Path(directory)
    self._sft = sft
    self._examples = validation
    self._prompts, _ = encode(validation, sft)
    self._sample = sample_responses.make_sampler(sft, sft, sampling)
    self._score = score
    self._rows = rows
    self._move = move

  def __call__(self, params: Any, step: int) -> dict[str, float]:
    rows = []
    policy = params["policy"]
    read = self._move(policy)
    for index, real in converters.chunks(len(self._examples), self._rows):
      part = converters.take(self._prompts, index)
      key = rng.key(0, "validation")
      drawn = self._sample(read, self._sft, part, key)
      scores = self._score(part, drawn[0][:, None], drawn[1][:, None])[:, 0]
      drawn, scores = processes.to_host((tuple(drawn), scores))
      for i, row in enumerate(index[:real]):
        response = sample_responses.to_response(
          self._examples[row], 0, drawn, i, self._sft.tokenizer
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

  def load(self, step: int) -> Any:
    """Parameters of a candidate."""
    directory = self._directory / "candidates" / f"{step:06d}"
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      self._sft.params,
    )
    return checkpoint.load_params(directory, like)


def read_validation(directory: str) -> dict[int, list[dict[str, Any]]]:
  """step -> rows of validation/STEP.jsonl, oldest first."""
  result = {}
  for path in sorted((pathlib.Path(directory) / "validation").glob("*.jsonl")):
    result[int(path.stem)] = jsonl.parse_rows(path, dict)
  return result


def select(
  directory: str, config: SelectionConfig, devices: Any
) -> list[dict[str, Any]]:
  """Candidates of highest validation reward, with their judged win rate.

  The rows of step 0 are the SFT policy's own responses; they are what a
  candidate is compared with, and step 0 is no candidate.
  """
  validation = read_validation(directory)
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
    judged, _ = judge.judge_pairs(
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
  return table
