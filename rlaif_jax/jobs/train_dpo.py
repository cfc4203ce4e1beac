# SPDX-License-Identifier: Apache-2.0
"""Trains a policy on labelled pairs directly, without a reward model.

Direct preference optimisation (arXiv:2305.18290) and its kin, offline: the
pairs are what they are. The reference's log-probs are computed once and kept
beside the run.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import numpy as np

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.data import preference_batches
from rlaif_jax.jobs import train_reward
from rlaif_jax.data import datasets
from rlaif_jax.models import architectures

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels_file: str,
  policy_dir: str,
  dpo: dpo_model.DPOConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  reference_dir: str = "",
  test_labels_file: str = "",
  hard_labels: bool = False,
  epochs: float = 1.0,
  batch_size: int = 64,
  save_every: int = 100,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  mesh: str = "data:-1",
  seed: int = 0,
  name: str = "dpo",
) -> dict[str, Any]:
  """Trains, and writes `output_dir`/model.

  Args:
    output_dir: where everything goes; a second start continues there.
    labels_file: labels.jsonl of the `label` job, soft or hard.
    policy_dir: finished language model that training starts from.
    dpo: the objective.
    optimizer: the paper's is RMSprop at 1e-6; AdamW serves.
    reference_dir: the model that the KL is counted from; "" is the start.
    test_labels_file: held-out labels; the accuracy of the implied reward is
      measured on them.
    hard_labels: round soft labels to 0 or 1 (0.5 stays).
    epochs: passes over the labels.
    batch_size: pairs per update (DPO's authors: 64).
    save_every: updates between checkpoints.
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer; see `train_sft`.
    scan_layers: layers are one loop; see `train_sft`.
    mesh: devices.
    seed: of the order.
    name: of the finished model.
  """
  devices = mesh_lib.make_mesh(mesh)
  # 1. Labels to tokens, and what the reference says of them.
  start = reference = pretrained.load(policy_dir, "language", devices)
  if reference_dir:
    reference = pretrained.load(reference_dir, "language", devices)
    check_same_text(reference, start)
  how = architectures.Execution(
    remat=remat,
    scan_layers=scan_layers,
    split_by=mesh_lib.activation_sharding(devices),
  )
  functions = architectures.language(start.config, how)
  data = LabelledPairs(labels_file, start, batch_size, hard=hard_labels)
  ref_log_probs = data.referenced(
    reference, pathlib.Path(output_dir) / "reference.jsonl"
  )
  test = None
  if test_labels_file:
    test = LabelledPairs(test_labels_file, start, batch_size)
    test_reference = test.log_probs(reference.params)
  del reference  # All that it had to say is said.
  source = preference_batches.PairBatches(
    datasets.HeldRows(data.pairs.replace(ref_log_probs=ref_log_probs)),
    devices,
    batch_size=batch_size,
    microbatches=microbatches,
    can_pack=functions.hidden_packed is not None,
  )
  # 2. The loop.
  tx = optimizer_lib.make_optimizer(optimizer)
  step = step_lib.make_train_step(
    dpo_model.make_loss(functions, dpo), tx, microbatches=microbatches
  )

  def next_batch(state, number):
    del state
    rows = range(len(data.labels))
    return source.at_step(number, rows, seed=seed, name=name)

  num_steps = max(1, math.ceil(epochs * len(data.labels) / batch_size))
  params, start = pretrained.apart(start)
  state = step_lib.state_from_params(params, tx, devices)
  del params  # The state's now.
  state = loop.fit(
    state,
    step,
    next_batch,
    config=loop.LoopConfig(num_steps=num_steps, save_every=save_every),
    seed=seed,
    directory=output_dir,
    name=name,
  )
  # 3. The finished model, and what its implied reward says of held-out pairs.
  pretrained.save_like(
    f"{output_dir}/model", state.params, start, name=name, kind="language"
  )
  summary = {
    "model": f"{output_dir}/model",
    "next": (
      "python -m rlaif_jax.main --job=sample --gin_file=RECIPE "
      f"--policy_dir={output_dir}/model --output_dir=NEW_DIR"
    ),
    "labels": len(data.labels),
    **data.cut,
  }
  if test is not None:
    ours = test.log_probs(state.params)
    rewards = [a - b for a, b in zip(ours, test_reference, strict=True)]
    train_reward.write_test_rewards(output_dir, test.labels, rewards)
    summary |= train_reward.accuracy(rewards, test.labels)
  return summary


def check_same_text(
  reference: pretrained.Loaded, start: pretrained.Loaded
) -> None:
  """Both read the same tokens.

  Raises:
    ValueError: another vocabulary, or other text around the context.
  """
  same = reference.tokenizer.fingerprint == start.tokenizer.fingerprint
  if not same or reference.sequence != start.sequence:
    ours, theirs = (
      (model.tokenizer.fingerprint, model.sequence)
      for model in (start, reference)
    )
    raise ValueError(
      f"the reference in {reference.directory} reads other tokens than the "
      f"policy in {start.directory}: (vocabulary, text) is {theirs} and "
      f"{ours}; take one that both come from"
    )


class LabelledPairs:
  """Labels of a file, as tokens and as log-probs of a model.

  Args:
    path: labels.jsonl.
    policy: whose tokens and lengths they get.
    batch_size: pairs that are read together.
    hard: round soft labels.
  """

  def __init__(
    self, path: str, policy: pretrained.Loaded, batch_size: int, *, hard=False
  ):
    self.labels = train_reward.read_labels(path)
    encode = train_reward.encoder(policy, hard=hard)
    self.pairs, self.cut = encode(self.labels)
    self._batch_size = batch_size
    functions = policy.functions
    self._log_probs = jax.jit(
      lambda params, part: scoring.pair_log_probs(functions, params, part)
    )

  def log_probs(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of both candidates of every pair."""
    return train_reward.predict(
      self._log_probs, params, self.pairs, self._batch_size
    )

  def referenced(
    self, reference: pretrained.Loaded, path: pathlib.Path
  ) -> np.ndarray:
    """Returns `log_probs` [n, 2] of the reference; a file keeps them.

    Raises:
      ValueError: the file is of other pairs or another reference.
    """
    head = {"reference": reference.name, "pairs": len(self.labels)}
    if not path.exists():
      first, second = self.log_probs(reference.params)
      rows = [
        {"id": label.id, "first": float(a), "second": float(b)}
        for label, a, b in zip(self.labels, first, second, strict=True)
      ]
      jsonl.write_rows(path, [head, *rows])
    head_found, *rows = jsonl.parse_rows(path, dict)
    same = [row["id"] for row in rows] == [label.id for label in self.labels]
    if head_found != head or not same:
      raise ValueError(
        f"{path} is of {head_found} and this run of {head}, or of other ids; "
        "start in a new --output_dir"
      )
    # What was written is what is read, so a resumed run sees the same bits.
    return np.asarray(
      [[row["first"], row["second"]] for row in rows], np.float32
    )
