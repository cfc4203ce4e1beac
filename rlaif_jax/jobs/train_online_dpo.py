# SPDX-License-Identifier: Apache-2.0
"""Trains a policy on pairs of its own samples, round after round.

Online iterative DPO (arXiv:2405.07863): the policy answers contexts, a judge
compares the answers, DPO learns from the best against the worst of each
context, and the next round begins with the policy that this one ended with.
With two samples, a labeler as judge and small rounds it is online AI feedback
(arXiv:2402.04792).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Callable, Sequence

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import processes
from rlaif_jax.model_io import pretrained
from rlaif_jax.api import online_preferences
from rlaif_jax.jobs import sample_responses
from rlaif_jax.jobs import train_dpo
from rlaif_jax.ops import pair_choice

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  policy_dir: str,
  judge: online_preferences.RoundJudge,
  dpo: dpo_model.DPOConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  sampling: decode.SamplingConfig,
  reference: str,
  data_dir: str = "",
  examples_file: str = "",
  task: str = "",
  split: str = "rl",
  limit: int = 0,
  rounds: int = 3,
  contexts: int = 1024,
  num_samples: int = 8,
  cool: float = 0.7,
  choose: str = "max_min",
  length_penalty: float = 0.0,
  epochs: float = 2.0,
  batch_size: int = 64,
  save_every: int = 100,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  mesh: str = "data:-1",
  seed: int = 0,
  name: str = "online_dpo",
) -> dict[str, Any]:
  """Trains, and writes `output_dir`/model, rounds.jsonl and round_*/.

  Args:
    output_dir: where everything goes; a second start continues there.
    policy_dir: finished language model that training starts from.
    judge: who compares the samples.
    dpo: the objective; labels are 1 of a scorer's choices and the judge's own
      probability of others'.
    optimizer: starts anew in each round.
    sampling: of the responses.
    reference: that the KL is counted from, "initial" (the objective's, and the
      paper's) or "previous", the policy that the round began with.
    data_dir: of `prepare`, when a task is named.
    examples_file: JSONL of examples, instead of a task.
    task: task whose contexts are used.
    split: of the task.
    limit: first rows only (0: all).
    rounds: of sampling, judging and learning (the paper: 3).
    contexts: of a round; each round takes others until all have been taken.
    num_samples: a context (the paper: 8).
    cool: temperature of half of the samples (the paper: 0.7 beside 1.0);
      0: all are drawn at that of `sampling`.
    choose: which two samples become the pair (`ops.pair_choice.choose`).
    length_penalty: a token's, taken off a sample's score before choosing.
    epochs: passes over a round's pairs.
    batch_size: pairs per update; contexts and responses per device call.
    save_every: updates between checkpoints.
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer; see `train_sft`.
    scan_layers: layers are one loop; see `train_sft`.
    mesh: devices.
    seed: of contexts, samples and order.
    name: of the finished model.
  """
  check(reference, choose, num_samples, cool)
  check_lengths(policy_dir, sampling)
  online_preferences.check_processes(judge)
  devices = mesh_lib.make_mesh(mesh)
  answers = Answers(
    examples=pretrained.load_examples(
      examples_file=examples_file,
      task=task,
      split=split,
      data_dir=data_dir,
      limit=limit,
    ),
    start=policy_dir,
    judge=judge,
    sampling=sampling,
    contexts=contexts,
    num_samples=num_samples,
    cool=cool,
    choose=choose,
    length_penalty=length_penalty,
    batch_size=batch_size,
    mesh=mesh,
    seed=seed,
    name=name,
  )

  def learn(folder: pathlib.Path, policy: str, number: int) -> dict[str, Any]:
    return train_dpo.run(
      output_dir=str(folder / "dpo"),
      labels_file=str(folder / "labels.jsonl"),
      policy_dir=policy,
      reference_dir=policy_dir if reference == "initial" else "",
      dpo=dpo,
      optimizer=optimizer,
      epochs=epochs,
      batch_size=batch_size,
      save_every=save_every,
      microbatches=microbatches,
      remat=remat,
      scan_layers=scan_layers,
      mesh=mesh,
      seed=seed,
      name=f"{name}_{number}",
    )

  # The rounds, and once more the samples of the policy that they end with.
  policy, course = policy_dir, Course(output_dir, name)
  for number in range(1, rounds + 2):
    folder = pathlib.Path(output_dir) / f"round_{number}"
    row = once(folder / "answers.json", answers, folder, policy, number)
    course.add({"round": number, "policy": policy, **row})
    if number <= rounds:
      check_pairs(row, folder)
      policy = once(folder / "learned.json", learn, folder, policy, number)[
        "model"
      ]
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
    "rounds": course.rows,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
  """The first half of a round; fields as in `run`, `start` is its policy."""

  examples: Sequence[records.Example]
  start: str
  judge: online_preferences.RoundJudge
  sampling: decode.SamplingConfig
  contexts: int
  num_samples: int
  cool: float
  choose: str
  length_penalty: float
  batch_size: int
  mesh: str
  seed: int
  name: str

  def __call__(
    self, folder: pathlib.Path, policy: str, number: int
  ) -> dict[str, Any]:
    """Samples and judges; writes the round's labels.jsonl."""
    rows = converters.epoch_rows(
      num_rows=len(self.examples),
      batch_size=self.contexts,
      seed=self.seed,
      name=f"{self.name}/contexts",
      step=number - 1,
    )
    # A round that runs over the end of the contexts may meet one twice.
    part = [self.examples[i] for i in dict.fromkeys(rows.tolist())]
    jsonl.write_records(folder / "examples.jsonl", part)
    few = self.num_samples // 2 if self.cool else 0
    warm = self.num_samples - few
    found = self.sample(folder / "warm", policy, number, warm)
    parts = [folder / "warm"]
    if few:
      self.sample(folder / "cool", policy, number, few, self.cool)
      parts.append(folder / "cool")
    samples = [
      row
      for place in parts
      for row in jsonl.read_records(records.Response, place / "responses.jsonl")
    ]
    groups = list(sample_responses.by_context(samples).values())
    devices = mesh_lib.make_mesh(self.mesh)
    said = online_preferences.verdict(
      groups,
      self.judge,
      self.start,
      devices,
      directory=folder / "judged",
      batch_size=self.batch_size,
    )
    labels, numbers = online_preferences.pairs_of(
      groups,
      said,
      choose=self.choose,
      length_penalty=self.length_penalty,
      generator=rng.numpy_generator(self.seed, f"{self.name}/choose", number),
      labeler=self.name,
    )
    jsonl.write_records(folder / "labels.jsonl", labels)
    numbers |= {key: found[key] for key in ("kl", "mean_tokens", "finished")}
    if said.chances is None:  # Of comparisons the mean is always a half.
      numbers["score"] = float(said.scores[:, :warm].mean())
    return {"contexts": len(groups), **numbers}

  def sample(
    self,
    folder: pathlib.Path,
    policy: str,
    number: int,
    count: int,
    temperature: float | None = None,
  ) -> dict[str, Any]:
    """`count` responses to each of the round's contexts, with their KL."""
    sampling = self.sampling
    if temperature is not None:
      sampling = dataclasses.replace(sampling, temperature=temperature)
    generator = rng.numpy_generator(
      self.seed, f"{self.name}/{folder.name}", number
    )
    found = sample_responses.run(
      output_dir=str(folder),
      policy_dir=policy,
      reference_dir=self.start,
      sampling=sampling,
      examples_file=str(folder.parent / "examples.jsonl"),
      num_samples=count,
      batch_size=self.batch_size,
      mesh=self.mesh,
      seed=int(generator.integers(2**31)),
    )
    # One process wrote what all are about to read.
    processes.wait_for_all(f"sampled, {folder}")
    return found


class Course:
  """What is known of each round's policy, in rounds.jsonl and on the screen."""

  def __init__(self, directory: str, name: str):
    self.rows: list[dict[str, Any]] = []
    self._path = pathlib.Path(directory) / "rounds.jsonl"
    self._name = name

  def add(self, row: dict[str, Any]) -> None:
    self.rows.append(row)
    if processes.is_writer():
      jsonl.write_rows(self._path, self.rows)
      print(f"{self._name}: {jsonl.dump_row(row)}", flush=True)


def check_pairs(row: dict[str, Any], folder: pathlib.Path) -> None:
  """There is something to learn.

  Raises:
    ValueError: all pairs of a round are ties.
  """
  if not row["pairs"]:
    raise ValueError(
      f"{folder.name}: the judge finds all samples of a context alike, so "
      f"there is nothing to learn; read {folder}/warm/responses.jsonl. If the "
      "policy says one thing only, lower epochs or learning rate"
    )


def check(reference: str, choose: str, num_samples: int, cool: float) -> None:
  """The options that nothing below checks before the first sample.

  Raises:
    ValueError: one of them makes no sense.
  """
  if reference not in ("initial", "previous"):
    raise ValueError(
      f"reference is {reference!r}; say 'initial' (the policy that training "
      "starts from, as the objective has it) or 'previous'"
    )
  if choose not in pair_choice.CHOICES:
    raise ValueError(f"choose is {choose!r}; use one of {pair_choice.CHOICES}")
  if num_samples < 2 or cool < 0:
    raise ValueError(
      f"num_samples is {num_samples} and cool is {cool}; a pair needs two "
      "samples, and a temperature is not negative (0: off)"
    )


def check_lengths(policy_dir: str, sampling: decode.SamplingConfig) -> None:
  """A sample that is cut is as long as the longest text that is learned.

  Raises:
    ValueError: else it would be learned as if the policy had ended it there.
  """
  sequence = checkpoint.read_description(policy_dir)["sequence"]
  if sampling.max_tokens != sequence["max_response"]:
    raise ValueError(
      f"SamplingConfig.max_tokens is {sampling.max_tokens} and {policy_dir} "
      f"learns responses of up to {sequence['max_response']} tokens; give it "
      "that number, or what is cut would be learned as if it had ended there"
    )


def once(
  path: pathlib.Path, make: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
  """What `make` gives, or gave when it was last here.

  `make` needs all processes, so they agree on whether it was.
  """
  if not processes.any_of_all(path.exists()):
    found = make(*arguments)
    jsonl.write_text(path, json.dumps(found, sort_keys=True) + "\n")
  return json.loads(path.read_text("utf-8"))
