# SPDX-License-Identifier: Apache-2.0
"""Trains a policy on pairs of its own samples, round after round.

Online iterative DPO (arXiv:2405.07863): the policy answers contexts, a judge
compares the answers, DPO trains on the best against the worst answer of each
context, and the next round starts from the resulting policy. With two samples,
a labeler as judge and small rounds it is online AI feedback (arXiv:2402.04792).
"""

from __future__ import annotations

import functools
import pathlib

from rlaif_jax.api import online_preferences
from rlaif_jax.api import online_rounds
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.data import preferences
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import stages
from rlaif_jax.jobs import sample_responses
from rlaif_jax.jobs import train_dpo
from rlaif_jax.model_io import pretrained

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  policy_dir: str,
  judge: online_preferences.RoundJudge,
  rounds: online_rounds.RoundsConfig,
  examples: datasets.ExampleSource = datasets.ExampleSource(split="rl"),
  dpo: dpo_model.DPOConfig = dpo_model.DPOConfig(),
  optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig(),
  train: loop.TrainConfig = loop.TrainConfig(epochs=2.0, batch_size=64),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "online_dpo",
) -> records.Row:
  """Trains, and writes `output_dir`/model, rounds.jsonl and round_*/.

  Args:
    output_dir: output directory; a second start resumes there.
    policy_dir: finished language model that training starts from.
    judge: judge of the samples.
    rounds: number of rounds, and the samples of each.
    examples: contexts.
    dpo: objective. Labels are 1 for the choice of a scorer, and the probability
      of other judges.
    optimizer: optimizer; each round starts with a new state.
    train: length of a round, pairs per update and device call, and seed.
    compute: devices and memory.
    name: name of the finished model.
  """
  online_rounds.check_lengths(policy_dir, rounds.sampling)
  online_preferences.check_processes(judge)
  devices = mesh_lib.make_mesh(compute.mesh)
  contexts = examples.read()

  def label(folder: pathlib.Path, policy: str, number: int) -> records.Row:
    """Samples and judges; writes the labels of a round."""
    online_rounds.write_contexts(
      folder / "examples.jsonl",
      contexts,
      rounds,
      seed=train.seed,
      name=name,
      number=number,
    )
    sampled = {}
    for part, (count, sampling) in rounds.parts().items():
      sampled[part] = sample_responses.run(
        output_dir=str(folder / part),
        policy_dir=policy,
        reference_dir=policy_dir,
        sampling=sampling,
        examples=datasets.ExampleSource(
          examples_file=str(folder / "examples.jsonl")
        ),
        num_samples=count,
        batch_size=train.batch_size,
        mesh=compute.mesh,
        seed=online_rounds.sample_seed(train.seed, name, part, number),
      )
      # All processes read what one of them wrote.
      processes.wait_for_all(f"sampled, {folder / part}")
    score = functools.partial(
      online_preferences.score_samples,
      judge=judge,
      policy_dir=policy_dir,
      devices=devices,
      directory=folder / "judged",
      batch_size=train.batch_size,
    )
    numbers = online_rounds.label_samples(
      folder, rounds, score, train=train, name=name, number=number
    )
    shown = ("kl", "mean_tokens", "finished")
    return {**numbers, **{key: sampled["warm"][key] for key in shown}}

  def learn(folder: pathlib.Path, policy: str, number: int) -> records.Row:
    return train_dpo.run(
      output_dir=str(folder / "dpo"),
      labels=preferences.LabelsConfig(labels_file=str(folder / "labels.jsonl")),
      policy_dir=policy,
      reference_dir=policy_dir if rounds.reference == "initial" else "",
      dpo=dpo,
      optimizer=optimizer,
      train=train,
      compute=compute,
      name=f"{name}_{number}",
    )

  # The rounds, and the samples of the final policy.
  policy, rows = policy_dir, []
  for number in range(1, rounds.rounds + 2):
    folder = pathlib.Path(output_dir) / f"round_{number}"
    row = stages.run_once(folder / "label.json", label, folder, policy, number)
    rows.append({"round": number, "policy": policy, **row})
    if processes.is_writer():
      jsonl.write_rows(f"{output_dir}/rounds.jsonl", rows)
      print(f"{name}: {jsonl.dump_row(rows[-1])}", flush=True)
    if number <= rounds.rounds:
      online_rounds.check_pairs(row, folder)
      found = stages.run_once(
        folder / "train.json", learn, folder, policy, number
      )
      policy = found["model"]
  last = pretrained.load(policy, "language", devices)
  pretrained.save_like(
    f"{output_dir}/model", last.params, last, name=name, kind="language"
  )
  return {
    "model": f"{output_dir}/model",
    "next": (
      "python -m rlaif_jax.main --job=sample --gin_file=RECIPE "
      f"--policy_dir={output_dir}/model --output_dir=NEW_DIR"
    ),
    "rounds": rows,
  }
